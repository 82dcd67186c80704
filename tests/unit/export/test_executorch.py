from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from int8_samples import images, plain

from lissom.errors import ExportError
from lissom.export import executorch
from lissom.export.executorch import executorch_call, export_executorch

installed = pytest.mark.skipif(find_spec("executorch") is None, reason="extra executorch")


def test_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(executorch, "import_module", missing)
    with pytest.raises(ExportError, match=r"pip install 'lissom\[executorch\]'"):
        export_executorch(plain(), (images(1),), tmp_path / "m.pte")
    assert not list(tmp_path.iterdir())


def test_the_name_must_be_that_of_a_pte_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m.onnx: ExecuTorch's files are called NAME.pte"):
        export_executorch(plain(), (images(1),), tmp_path / "m.onnx")


@installed
@pytest.mark.parametrize("batch", [1, 3])
def test_the_file_computes_the_same(tmp_path: Path, batch: int) -> None:
    model, path = plain(), tmp_path / "m.pte"
    check = export_executorch(model, (images(1),), path, batch=batch)
    assert check.size_bytes == path.stat().st_size
    assert check.batch == batch
    assert check.delegated >= 1
    call = executorch_call(path)
    first, second = images(batch), images(batch) + 1
    results = [call(first)[0], call(second)[0]]
    for found, given in zip(results, (first, second), strict=True):
        torch.testing.assert_close(found, model(given).detach(), atol=1e-4, rtol=1e-4)


@installed
def test_what_runs_outside_of_xnnpack_is_named(tmp_path: Path) -> None:
    class Erf(torch.nn.Module):
        def forward(self, x):
            return torch.erf(x.flatten(1))

    check = export_executorch(Erf().eval(), (images(1),), tmp_path / "m.pte")
    assert check.portable.get("erf") == 1


@installed
def test_outputs_that_are_no_floats_are_compared_too(tmp_path: Path) -> None:
    class Several(torch.nn.Module):
        def forward(self, x):
            y = x.flatten(1)
            return y * 2, y > 0, 3

    check = export_executorch(Several().eval(), (images(1),), tmp_path / "m.pte")
    assert check.max_difference < 1e-6


@installed
def test_a_network_that_computes_something_else_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(executorch, "largest_difference", lambda *_: (1.0, 1.0))
    with pytest.raises(ExportError, match="differs from torch by 1"):
        export_executorch(plain(), (images(1),), tmp_path / "m.pte")
    assert not list(tmp_path.iterdir())
