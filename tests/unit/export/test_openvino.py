from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from int8_samples import images, plain

from lissom.errors import ExportError
from lissom.export import openvino
from lissom.export.openvino import export_openvino, openvino_call

installed = pytest.mark.skipif(find_spec("openvino") is None, reason="extra openvino")


def test_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(openvino, "import_module", missing)
    with pytest.raises(ExportError, match=r"pip install 'lissom\[openvino\]'"):
        export_openvino(plain(), (images(1),), tmp_path / "m.xml")
    assert not list(tmp_path.iterdir())


def test_the_name_must_be_that_of_an_xml_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m.onnx: OpenVINO's files are NAME.xml"):
        export_openvino(plain(), (images(1),), tmp_path / "m.onnx")


@installed
@pytest.mark.filterwarnings("ignore")
def test_files_compute_the_same(tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "m.xml"
    check = export_openvino(model, (images(1),), path)
    sizes = [file.stat().st_size for file in (path, path.with_suffix(".bin"))]
    assert check.size_bytes == sum(sizes)
    (found,) = openvino_call(path)(images(4))
    torch.testing.assert_close(found, model(images(4)).detach(), atol=1e-4, rtol=1e-4)
