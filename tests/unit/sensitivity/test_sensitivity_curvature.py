import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import DataError, ModelError
from lissom.sensitivity import curvature
from lissom.sensitivity.curvature import Curvature, curvatures, has_known_curvature
from lissom.task import Classification
from method_samples import batches_of


class Plain(Classification):
    """A task whose distance has no known curvature: gradients of the loss stand in."""

    def distance(self, outputs, reference, temperature=1.0):
        return (outputs - reference).square().mean()


class Pooled(nn.Module):
    """A layer, the mean over its positions, and a bias that makes the classes unequal."""

    def __init__(self, layer: nn.Module, classes: int) -> None:
        super().__init__()
        self.layer = layer
        self.offset = nn.Parameter(torch.linspace(-1, 1, classes))

    def forward(self, x):
        out = self.layer(x)
        flat = out.flatten(2).mean(2) if out.dim() == 4 else out
        return flat + self.offset


def measured_harm(model: Pooled, change: torch.Tensor, images: torch.Tensor) -> float:
    with torch.no_grad():
        before = model(images).double()
        model.layer.weight += change
        after = model(images).double()
        model.layer.weight -= change
    return float(Classification().distance(after, before))


def silent(layer: nn.Module) -> Pooled:
    """Give a network whose outputs do not depend on the image, until the weight is changed.

    Gradients at the outputs and inputs are then independent, and the estimate exact to second
    order; float32 forbids changes much smaller than these.
    """
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return Pooled(layer, layer.weight.shape[0]).eval()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv2d(3, 4, 1), (3, 4, 4)),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), (3, 5, 5)),
    ],
    ids=["linear", "1x1", "3x3"],
)
def test_the_harm_of_a_small_change_is_exact_to_second_order(layer, shape):
    torch.manual_seed(0)
    model = silent(layer)
    images = torch.randn(4096, *shape) + torch.linspace(-1, 1, shape[0]).reshape(
        -1, *(1,) * (len(shape) - 1)
    )  # a mean: what positions of an image have in common
    batches = [(part, None) for part in images.split(512)]
    found = curvatures(model, ["layer"], batches, Classification(), 4096)["layer"]
    change = 0.02 * torch.randn_like(layer.weight)
    expected = measured_harm(model, change, images)
    harms = found.harms(change)
    assert len(harms) == 4
    # Both are means over 4,096 random images and signs.
    assert float(harms.mean()) == pytest.approx(expected, rel=0.06)
    assert float(found.harms(2 * change).mean()) == pytest.approx(4 * float(harms.mean()))


def test_that_comparison_notices_a_factor(monkeypatch):
    torch.manual_seed(0)
    model = silent(nn.Conv2d(3, 4, 1))
    images = torch.randn(1024, 3, 4, 4) + 1
    found = curvatures(model, ["layer"], [(images, None)], Classification(), 1024)["layer"]
    change = 0.02 * torch.randn_like(model.layer.weight)
    position_by_position = Curvature(found.outputs / 16, found.inputs)
    wrong = float(position_by_position.harms(change).mean())
    assert wrong != pytest.approx(measured_harm(model, change, images), rel=0.5)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 7)

    def forward(self, x):
        return F.relu(self.layer(x)).square().mean(1)


def convolutional(conv: nn.Conv2d) -> nn.Module:
    model = Pooled(conv, conv.out_channels)
    model.offset.data.uniform_(-1, 1)
    return model


CASES = {
    "many positions": (convolutional(nn.Conv2d(3, 5, 3, padding=1)), (3, 6, 6)),
    "few positions": (convolutional(nn.Conv2d(3, 5, (3, 2), stride=(2, 3))), (3, 5, 6)),
    "reflect": (convolutional(nn.Conv2d(2, 6, 3, padding=1, padding_mode="reflect")), (2, 4, 4)),
    "sequence": (Sequence(), (4, 5)),
}


def by_hand(model: nn.Module, images, classes):
    """Give U and V from the weight's gradient of each image's own loss."""
    outputs, inputs = 0, 0
    for image, label in zip(images, classes, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        rows = model.layer.weight.grad.flatten(1).double()
        outputs, inputs = outputs + rows @ rows.T, inputs + rows.T @ rows
    return outputs / len(images), inputs / inputs.trace()


@pytest.mark.parametrize("at_once", [1 << 24, 1])
@pytest.mark.parametrize(("model", "shape"), CASES.values(), ids=CASES)
def test_factors_are_those_of_each_image_s_weight_gradient(model, shape, at_once, monkeypatch):
    monkeypatch.setattr(curvature, "_AT_ONCE", at_once)
    (images, classes) = batches_of(*shape, count=1)[0]
    found = curvatures(model, ["layer"], [(images, classes)], Plain(), 16)["layer"]
    outputs, inputs = by_hand(model, images, classes)
    torch.testing.assert_close(found.outputs[0], outputs, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(found.inputs, inputs, rtol=1e-3, atol=1e-7)


def test_wide_patches_are_kept_per_channel(monkeypatch):
    monkeypatch.setattr(curvature, "PATCH_LIMIT", 26)
    model, shape = CASES["many positions"]
    images, classes = batches_of(*shape, count=1)[0]
    found = curvatures(model, ["layer"], [(images, classes)], Plain(), 16)["layer"]
    outputs, inputs = by_hand(model, images, classes)
    per_channel = inputs.reshape(3, 9, 3, 9).diagonal(dim1=1, dim2=3).sum(2)
    torch.testing.assert_close(found.inputs, per_channel, rtol=1e-3, atol=1e-7)
    change = torch.randn(5, 3, 3, 3)
    rows = change.double().reshape(5, 3, 9)
    moved = torch.einsum("tsk,su,vuk->tv", rows, per_channel, rows) / 9
    assert float(found.harms(change)[0]) == pytest.approx(float((outputs * moved).sum()) / 2, 1e-3)


def test_signals_have_the_curvature_of_the_divergence():
    logits = torch.tensor([[0.0, 1.0, 2.5]]).repeat(40_000, 1).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    curvature._signal(Classification(), {"out": logits}, None, generator).backward()
    p = logits[0].detach().softmax(0)
    hessian = p.diag() - p[:, None] * p
    # The mean of 40,000 signs is known to about 0.005.
    torch.testing.assert_close(logits.grad.T @ logits.grad / 40_000, hessian, rtol=0, atol=0.005)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(5, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.b(self.relu(self.a(x))), self.idle(x)


def test_the_network_stays_as_it_is_and_side_outputs_harm_nothing():
    torch.manual_seed(0)
    model = InPlace().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = curvatures(model, ["a", "b", "idle"], batches_of(5), Classification(), 32)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.a._forward_hooks
    assert float(found["a"].harms(model.a.weight).mean()) > 0
    assert found["idle"].harms(model.idle.weight).tolist() == [0.0, 0.0]


def test_images_bound_what_is_read():
    model, batches = InPlace(), batches_of(5, count=3)
    first, same, more = (
        curvatures(model, ["a"], given, Classification(), images)["a"]
        for given, images in ((batches, 16), (batches[:1], 1000), (batches, 17))
    )
    assert torch.equal(first.outputs, same.outputs)
    assert len(more.outputs) == 2


def test_what_can_go_wrong_is_named():
    model = InPlace()
    with pytest.raises(DataError, match="gave no batch; curvatures need"):
        curvatures(model, ["a"], [], Classification(), 8)
    broken = [(torch.full((4, 5), torch.inf), None)]
    with pytest.raises(ModelError, match="a: the gradient of the outputs is not finite"):
        curvatures(model, ["a"], broken, Classification(), 8)
    assert curvatures(model, [], [], Classification(), 8) == {}


def test_only_the_divergence_has_a_known_curvature():
    assert has_known_curvature(Classification())
    assert not has_known_curvature(Plain())
