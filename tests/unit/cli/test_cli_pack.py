import json
from pathlib import Path

import pytest
import torch
from torch import nn

import lissom
from lissom.artifacts import Artifacts, load_plan, save
from lissom.cli.app import run
from lissom.errors import LissomError, PackedFileError, PlanError
from lissom.export.runtime import OnnxSession
from lissom.packed.reader import PackedReader
from lissom.packed.tensors import Levels, Stored
from lissom.packed.writer import pack
from lissom.plan.plan import Plan, Source
from lissom.plan.quantize import Quantize
from packed_samples import kernels, same


def quantized(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for index, value in enumerate(model.parameters()):
            if value.ndim == 4:
                levels = torch.from_numpy(kernels(tuple(value.shape), 0.2, seed=index))
                value.copy_(Levels(levels, torch.tensor(0.05)).tensor())
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("run")
    model = quantized(lissom.build_model("lissom:resnet8"))
    plan = Plan.starting_from(model, Source("lissom:resnet8"))
    save(out, Artifacts(model=model, plan=plan))
    assert run(["pack", str(out)]) == 0
    return out


def test_the_packed_file_is_small_and_the_same_network(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pack", str(folder)]) == 0
    packed, weights = folder / "model.lsm", folder / "weights.safetensors"
    size = packed.stat().st_size
    assert capsys.readouterr().out.startswith(f"{packed}: {size:,} bytes (levels ")
    assert weights.stat().st_size > 15 * size
    loaded, original = lissom.load(packed), lissom.load(folder)
    for name, value in original.state_dict().items():
        assert same(loaded.state_dict()[name], value), name
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), original(images))


def test_a_size_makes_quantized_weights_cheaper(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, model = load_plan(folder), lissom.build_model("lissom:resnet8").eval()
    layers = [
        "conv1",
        "layer1.conv1",
        "layer1.conv2",
    ]  # few, since the file is made again and again
    for name in layers:
        weight = lissom.load(folder).get_parameter(f"{name}.weight")
        model.get_submodule(name).weight.data = weight.detach()
    quantize = tuple(Quantize(name, 9, 1, channel_scales=False) for name in layers)
    folder = tmp_path / "run"
    save(folder, Artifacts(model, plan + Plan(quantize)))
    assert run(["pack", str(folder)]) == 0
    whole, small = folder / "model.lsm", tmp_path / "small.lsm"
    limit = whole.stat().st_size - 300
    before = (folder / "weights.safetensors").read_bytes()
    assert run(["pack", str(folder), "--out", str(small), "--size", f"{limit}B"]) == 0
    assert limit - 100 <= small.stat().st_size <= limit
    assert "tensors changed: relative squared error" in capsys.readouterr().out
    assert (folder / "weights.safetensors").read_bytes() == before
    loaded, original = lissom.load(small).state_dict(), lissom.load(folder).state_dict()
    for name, value in original.items():
        if name.removesuffix(".weight") in layers:
            assert (loaded[name].abs() <= value.abs()).all()
            assert torch.equal(loaded[name] / 0.05, (loaded[name] / 0.05).round())
        else:
            assert same(loaded[name], value), name
    before = whole.read_bytes()
    assert run(["pack", str(folder), "--size", "5kB"]) == 2
    assert "--size: gives another network" in capsys.readouterr().err
    assert whole.read_bytes() == before
    assert run(["pack", str(folder), "--out", str(small), "--size", "25x"]) == 2
    assert "report.json: no such file" in capsys.readouterr().err


def test_unpacked_files_are_those_that_were_packed(folder: Path, tmp_path: Path) -> None:
    assert run(["unpack", str(folder / "model.lsm"), "--to", str(tmp_path)]) == 0
    for name in ("plan.json", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_packed_file_of_another_network_is_refused_before_anything_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file claims to hold may be far more than it is."""

    def never(reader: PackedReader) -> dict[str, torch.Tensor]:
        raise AssertionError("decoded")

    source = json.loads((folder / "plan.json").read_text())["source"]
    claim = Plan((), Source(source["spec"])).to_json()
    content = pack({"conv1.weight": Stored(torch.zeros(2, 2))}, claim).content
    (folder / "claim.lsm").write_bytes(content)
    monkeypatch.setattr(PackedReader, "tensors", never)
    with pytest.raises(PlanError, match=r"tensor|stored"):
        lissom.load(folder / "claim.lsm")


def test_more_values_than_memory_holds_are_a_damaged_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lissom.packed.reader.read_stored_chunk", full)
    with pytest.raises(PackedFileError, match=r"claims [\d,]+ values, more than memory holds"):
        lissom.load(folder / "model.lsm")


def test_a_network_that_can_not_be_built_is_a_plan_error(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    plan["source"]["arguments"] = {"classes": -5}
    content = pack({"x": Stored(torch.zeros(2))}, json.dumps(plan)).content
    (folder / "odd.lsm").write_bytes(content)
    with pytest.raises(LissomError):
        lissom.load(folder / "odd.lsm")


def test_an_onnx_file_computes_the_same(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    command = ["unpack", str(folder / "model.lsm"), "--to", str(path)]
    assert run([*command, "--input", "1x3x32x32"]) == 0
    images = torch.randn(2, 3, 32, 32)
    expected = lissom.load(folder / "model.lsm")(images)
    (found,) = OnnxSession(path)(images)
    assert torch.allclose(found, expected, atol=1e-4)


def test_an_onnx_file_needs_a_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["unpack", str(folder / "model.lsm"), "--to", "x.onnx"]) == 2
    assert "needs the shape of its input: --input 1x3x32x32" in capsys.readouterr().err


def test_options_of_an_onnx_file_are_refused_for_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert run(["unpack", str(folder / "model.lsm"), "--to", out, "--input", "1x1x8x8"]) == 2
    assert "--input: has no effect" in " ".join(capsys.readouterr().err.split())


def test_own_networks_are_given(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    save(tmp_path, Artifacts(model=model, plan=Plan.starting_from(model)))
    out = tmp_path / "small.lsm"
    assert run(["pack", str(tmp_path), "--out", str(out)]) == 0
    assert same(lissom.load(out, model=nn.Linear(3, 2)).weight, model.weight)
    with pytest.raises(PlanError, match=r"does not say which network .* model="):
        lissom.load(out)
    with pytest.raises(PlanError, match="tensor 'bias'"):
        lissom.load(out, model=nn.Linear(3, 4))


def test_damaged_and_missing_files_are_one_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.lsm"
    short.write_bytes((folder / "model.lsm").read_bytes()[:-9])
    assert run(["unpack", str(short), "--to", str(tmp_path / "out")]) == 2
    assert "short.lsm: expected" in capsys.readouterr().err
    with pytest.raises(PackedFileError, match=r"short.lsm: expected [\d,]+ bytes after the header"):
        lissom.load(short)
    assert run(["unpack", str(tmp_path / "none.lsm"), "--to", str(tmp_path / "out")]) == 2
    assert "none.lsm: can't be read (No such file or directory)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
