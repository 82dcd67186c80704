from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lissom.artifacts import Artifacts, load, pack_folder, save, weights_content
from lissom.errors import WeightsError
from lissom.packed.network import packed_network, stored_state
from lissom.packed.tensors import Levels
from lissom.plan.plan import Plan, Source
from lissom.plan.quantize import Quantize
from packed_samples import kernels


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.decode.weight = self.encode.weight


def quantized() -> tuple[nn.Module, Levels]:
    torch.manual_seed(0)
    model = Tied()
    # All even: the file is written with a scale twice as large.
    levels = Levels(2 * torch.from_numpy(kernels((4, 4, 3, 3), 0.4)), torch.tensor(0.037))
    model.encode.weight.data = levels.tensor().to(memory_format=torch.channels_last)
    return model, levels


def plan_of(model: nn.Module, *, known: bool) -> Plan:
    plan = Plan.starting_from(model, Source("lissom:tied") if known else None)
    return plan + Plan((Quantize("encode", 3, 50, channel_scales=False),))


@pytest.mark.parametrize("known", [False, True])
def test_it_is_the_file_that_pack_would_write(tmp_path: Path, known: bool) -> None:
    model, _ = quantized()
    plan = plan_of(model, known=known)
    packed = packed_network(stored_state(model), plan)
    sizes = save(tmp_path, Artifacts(model=model, plan=plan, packed=packed.content))
    assert pack_folder(tmp_path).packed.content == packed.content
    assert sizes["model.lsm"] == len(packed.content) == (tmp_path / "model.lsm").stat().st_size
    if not known:
        loaded = load(tmp_path / "model.lsm", model=Tied())
        assert weights_content(loaded) == weights_content(model)


def test_order_and_given_levels_make_no_difference() -> None:
    model, levels = quantized()
    plan, state = plan_of(model, known=True), stored_state(model)
    assert list(state) == ["encode.weight", "encode.bias", "decode.bias"]
    expected = packed_network(state, plan).content
    turned = dict(reversed(state.items()))
    assert packed_network(turned, plan).content == expected
    assert packed_network(turned | {"encode.weight": levels}, plan).content == expected
    other = Levels(levels.levels + 1, levels.scale)
    assert packed_network(turned | {"encode.weight": other}, plan).content != expected


def test_a_state_is_a_plain_copy_of_nothing_else() -> None:
    model, _ = quantized()
    value = stored_state(model)["encode.weight"]
    assert value.is_contiguous()
    assert not value.requires_grad
    assert torch.equal(value, model.encode.weight)


def test_what_a_packed_file_cannot_hold_is_named() -> None:
    state = {"table": torch.zeros(3, dtype=torch.uint16)}
    with pytest.raises(
        WeightsError,
        match=r"table: a packed file can't hold torch.uint16; store it as another type",
    ):
        packed_network(state, Plan(()))
