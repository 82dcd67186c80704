"""``lissom.load`` of a file whose plan was tampered with gives a network or a LissomError.

Checksums find accidents; here they are right, and the plan is not.
"""

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lissom import load
from lissom.errors import LissomError
from lissom.packed.network import packed_network, stored_state
from lissom.packed.reader import PackedReader
from lissom.packed.recognise import packable
from lissom.packed.writer import pack
from lissom.plan.build import build
from lissom.plan.plan import Plan

ODD: list[Any] = [None, 0, 1, -1, 2**63, 1.5, float("nan"), "", "0", "no such", [], {}, True]
AXES = [*([f"1.{leaf}", 0] for leaf in ("weight", "bias", "running_mean", "running_var"))]
DECISIONS = [
    {
        "kind": "keep_channels",
        "group": "0",
        "cuts": [
            {
                "keep": [0, 2, 3, 5, 6, 7],
                "size": 8,
                "axes": [*AXES, ["0.weight", 0], ["3.weight", 1]],
                "groups": 1,
            }
        ],
    },
    {"kind": "channel_svd", "layer": "3", "rank": 4},
    {"kind": "tucker2", "layer": "5", "rank_in": 3, "rank_out": 5},
    {"kind": "fold_batch_norm", "layer": "0", "norm": "1"},
    {"kind": "quantize", "layer": "3.first", "bits": 3, "nonzero": 9, "channel_scales": False},
]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.LazyLinear(3),
    ).eval()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    model = network()
    model(torch.zeros(1, 3, 6, 6))
    return model


@pytest.fixture(scope="module")
def whole(original: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The plan as JSON, and the tensors."""
    empty = json.loads(Plan.starting_from(original).to_json())
    plan = {**empty, "decisions": DECISIONS}
    return plan, stored_state(build(original, Plan.from_json(json.dumps(plan))))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give every place in nested lists and dictionaries, as a container and a key."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(inside):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def tampered(plan: dict[str, Any], draw: random.Random) -> str:
    """Change one or two places: another value, a shifted number, a hole, a repetition."""
    changed = copy.deepcopy(plan)
    for _ in range(draw.choice([1, 1, 2])):
        container, key = draw.choice(list(places(changed)))
        value = container[key]
        kind = draw.randrange(5)
        if kind == 0 and isinstance(value, int):
            container[key] = value + draw.choice([-100, -1, 1, 7, 1000])
        elif kind == 1:
            del container[key]
        elif kind == 2 and isinstance(value, list) and value:
            value.append(draw.choice(value))
        else:
            container[key] = draw.choice(ODD)
    return json.dumps(changed)


@pytest.fixture
def survives(
    whole: Any, original: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, int], int]:
    """Load so many files; anything but a LissomError fails. Gives how many were accepted."""
    plan, state = whole
    path = tmp_path / "model.lsm"
    path.write_bytes(pack({name: packable(value) for name, value in state.items()}).content)
    texts = [""]
    # To code every text anew would take nearly all of the time.
    monkeypatch.setattr(PackedReader, "plan", property(lambda _: texts[0]))

    def accepted(count: int, seed: int) -> int:
        draw, loaded = random.Random(seed), 0
        for _ in range(count):
            texts[0] = tampered(plan, draw)
            with contextlib.suppress(LissomError):
                load(path, model=original)
                loaded += 1
        return loaded

    return accepted


def test_the_whole_file_is_loaded(whole: Any, original: nn.Module, tmp_path: Path) -> None:
    plan, state = whole
    path = tmp_path / "model.lsm"
    path.write_bytes(packed_network(state, Plan.from_json(json.dumps(plan))).content)
    found = load(path, model=original).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_plan_that_was_tampered_with_is_survived(survives: Callable[[int, int], int]) -> None:
    assert 0 < survives(150, 1) < 75


@pytest.mark.slow
def test_many_plans_that_were_tampered_with_are_survived(
    survives: Callable[[int, int], int],
) -> None:
    survives(10_000, 2)
