from pathlib import Path

import pytest
import torch
from int8_samples import images, plain
from torch import Tensor, nn

from lissom.errors import ExportError
from lissom.export import torch_program
from lissom.export.torch_program import export_torch


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 if x.sum() > 0 else 2)


def test_a_program_loads_without_the_class_and_takes_any_batch(tmp_path: Path) -> None:
    model = plain()
    path = tmp_path / "m.pt2"
    check = export_torch(model, (images(1),), path)
    assert check.dynamic_batch
    assert check.size_bytes == path.stat().st_size
    assert check.max_difference < 1e-5
    program = torch.export.load(path).module()
    torch.testing.assert_close(program(images(5)), model(images(5)))


def test_what_cannot_be_traced_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Choosing: torch.export can't express"):
        export_torch(Choosing(), (images(1),), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_a_program_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch_program.program_of

    def altered(network: nn.Module, inputs: tuple[Tensor, ...], free: object) -> object:
        copy = nn.Sequential(*network)
        copy[-1] = nn.Linear(24, 5)
        return original(copy.eval(), inputs, free)

    monkeypatch.setattr(torch_program, "program_of", altered)
    with pytest.raises(ExportError, match="program differs from the network by"):
        export_torch(plain(), (images(1),), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())
