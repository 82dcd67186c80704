import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import DataError, ModelError
from lissom.sensitivity import statistics
from lissom.sensitivity.statistics import input_covariances, loss_gradients
from lissom.task import Classification
from method_samples import batches_of

CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 4, 3),
    "padded": nn.Conv2d(3, 4, 3, padding=(2, 1)),
    "stride pair": nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1),
    "dilated": nn.Conv2d(3, 4, (3, 2), dilation=(2, 1), padding=(1, 0)),
    "same": nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)),
    "valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "reflect": nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"),
    "replicate": nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
    "circular": nn.Conv2d(3, 4, (3, 1), padding=(1, 0), padding_mode="circular"),
    "1x1": nn.Conv2d(3, 4, 1),
    "1x1 strided, padded": nn.Conv2d(3, 4, 1, stride=2, padding=1),
}


def direct(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """E[x x^T] over all positions, by F.unfold of images padded here."""
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        before = [pad // 2 for pad in total]
        after = [pad - first for pad, first in zip(total, before, strict=True)]
    else:
        before = after = [0, 0] if conv.padding == "valid" else list(conv.padding)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(images, (before[1], after[1], before[0], after[0]), mode=mode)
    seen = F.unfold(padded, conv.kernel_size, conv.dilation, stride=conv.stride)
    rows = seen.transpose(1, 2).flatten(0, 1).double()
    return rows.T @ rows / len(rows)


def measured(model: nn.Module, name: str, batches, images: int = 1000) -> torch.Tensor:
    return input_covariances(model, [name], batches, Classification(), images)[name].double()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_covariance_equals_that_of_all_unfolded_patches(conv, monkeypatch):
    monkeypatch.setattr(statistics, "_POSITIONS", 10_000)
    batches = batches_of(3, 9, 8, count=2, size=4)
    expected = direct(conv, torch.cat([images for images, _ in batches]))
    # float32 sums over some hundred rows
    torch.testing.assert_close(
        measured(nn.Sequential(conv), "0", batches), expected, rtol=1e-4, atol=1e-5
    )


def test_the_comparison_notices_a_lost_attribute(monkeypatch):
    monkeypatch.setattr(statistics, "_POSITIONS", 10_000)
    batches = batches_of(3, 9, 8, count=1, size=4)
    given = measured(nn.Sequential(CONVOLUTIONS["dilated"]), "0", batches)
    undilated = nn.Conv2d(3, 4, (3, 2), padding=(1, 0))
    assert not torch.allclose(given, direct(undilated, batches[0][0]), rtol=1e-2, atol=1e-3)


def test_few_positions_estimate_the_same(monkeypatch):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    batches = batches_of(3, 16, 16, count=1, size=64)
    estimate = measured(nn.Sequential(conv), "0", batches)
    # 64 images of 128 patches each: entries are known to about 1 / sqrt(8192)
    torch.testing.assert_close(estimate, direct(conv, batches[0][0]), rtol=0, atol=0.06)


def test_wide_patches_are_kept_per_channel(monkeypatch):
    monkeypatch.setattr(statistics, "PATCH_LIMIT", 26)
    monkeypatch.setattr(statistics, "_POSITIONS", 10_000)
    conv, batches = nn.Conv2d(3, 4, 3, stride=2, padding=1), batches_of(3, 6, 6, count=1, size=4)
    expected = direct(nn.Conv2d(3, 4, 1), batches[0][0])
    torch.testing.assert_close(
        measured(nn.Sequential(conv), "0", batches), expected, rtol=1e-4, atol=1e-5
    )


def test_linear_layers_on_vectors_and_sequences():
    layer, batches = nn.Linear(5, 2), batches_of(7, 5, count=2, size=3)
    rows = torch.cat([images for images, _ in batches]).reshape(-1, 5).double()
    torch.testing.assert_close(
        measured(nn.Sequential(layer), "0", batches), rows.T @ rows / 42, rtol=1e-4, atol=1e-5
    )


def test_images_bound_what_is_read():
    model, batches = nn.Sequential(nn.Linear(5, 2)), batches_of(5, count=3)
    assert torch.equal(measured(model, "0", batches, 16), measured(model, "0", batches[:1], 1000))
    assert not torch.equal(measured(model, "0", batches, 17), measured(model, "0", batches[:1]))


def test_hooks_are_gone_afterwards_even_after_an_error():
    model = nn.Sequential(nn.Linear(5, 2))
    with pytest.raises(DataError, match="gave no batch"):
        measured(model, "0", [])
    assert not model[0]._forward_pre_hooks


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_never_ran_is_named():
    with pytest.raises(ModelError, match="idle: never ran on the calibration data"):
        measured(Idle(), "idle", batches_of(5))


def test_inputs_that_are_not_finite_are_named():
    images = torch.full((4, 5), torch.inf)
    with pytest.raises(ModelError, match="used: reads values that are not finite"):
        measured(Idle(), "used", [(images, torch.zeros(4))])


def test_no_layers_need_no_data():
    assert input_covariances(nn.ReLU(), [], [], Classification(), 8) == {}


def test_gradients_are_those_of_the_mean_loss_and_leave_the_network_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4))
    batches = [*batches_of(5, count=1, size=8), *batches_of(5, count=1, size=4, seed=2)]
    found = loss_gradients(model.requires_grad_(False), batches, Classification(), 1000)
    images, classes = (torch.cat(parts) for parts in zip(*batches, strict=True))
    weight = model[0].weight.detach().clone().requires_grad_()
    F.cross_entropy(F.linear(images, weight, model[0].bias), classes).backward()
    torch.testing.assert_close(found["0.weight"], weight.grad)
    assert model[0].weight.grad is None


def test_gradients_need_a_batch():
    with pytest.raises(DataError, match="gradients need"):
        loss_gradients(nn.Linear(5, 2), [], Classification(), 8)
