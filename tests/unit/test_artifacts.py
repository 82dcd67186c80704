import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lissom import artifacts
from lissom.artifacts import Artifacts, load, load_plan, load_report, save, unpack_file
from lissom.errors import LissomError, PackedFileError, PlanError, WeightsError
from lissom.export import files
from lissom.models.catalog import build_model
from lissom.packed.network import packed_network, stored_state
from lissom.plan.build import build
from lissom.plan.low_rank import Tucker2
from lissom.plan.plan import Plan, Source, plan_signature, tensor_shapes
from report_samples import REPORT


class Tied(nn.Module):
    """Two names of one weight, a buffer that no file holds, and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(4, 4, bias=False)
        self.decode = nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.scale = nn.Parameter(torch.rand(4), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)) * self.scale + self.table


def plan_for(model: nn.Module, spec: str = "", *decisions: Tucker2) -> Plan:
    source = Source(spec) if spec else None
    return Plan(decisions, source, plan_signature(model), tensor_shapes(model))


@pytest.fixture
def compressed(tmp_path: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(1)
    model = build_model("lissom:resnet8")
    plan = plan_for(model, "lissom:resnet8", Tucker2(_wide_layer(model), 8, 8))
    network = build(model, plan)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(torch.rand_like(value, dtype=torch.float32))
    save(tmp_path, Artifacts(model=network, plan=plan))
    return tmp_path, network


def _wide_layer(model: nn.Module) -> str:
    return next(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels == 32
    )


def test_load_restores_every_bit(compressed: tuple[Path, nn.Module]) -> None:
    folder, network = compressed
    state = torch.random.get_rng_state()
    loaded = load(folder)
    assert not loaded.training
    assert type(loaded) is type(network)
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), network.eval()(images))


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = Tied()
    sizes = save(tmp_path, Artifacts(model=model, plan=plan_for(model)))
    assert sizes["weights.safetensors"] == (tmp_path / "weights.safetensors").stat().st_size
    assert (tmp_path / "weights.safetensors").read_bytes().count(b"weight") == 1
    fresh = Tied()
    loaded = load(tmp_path, model=fresh)
    assert loaded.encode.weight is loaded.decode.weight
    assert loaded is not fresh
    assert not loaded.scale.requires_grad
    x = torch.randn(3, 4)
    assert torch.equal(loaded(x), model(x))


def test_buffers_that_no_file_holds_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "build_model", lambda spec: Tied())
    model = Tied()
    save(tmp_path, Artifacts(model=model, plan=plan_for(model, "lissom:tied")))
    x = torch.randn(3, 4)
    assert torch.equal(load(tmp_path)(x), model(x))


def test_constructors_that_compute_with_values_are_built_with_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def factory(spec: str) -> nn.Module:
        return nn.Linear(int(torch.ones(3).sum().item()), 2)

    monkeypatch.setattr(artifacts, "build_model", factory)
    model = factory("")
    save(tmp_path, Artifacts(model=model, plan=plan_for(model, "lissom:computed")))
    assert torch.equal(load(tmp_path).weight, model.weight)


def test_own_networks_must_be_given(tmp_path: Path) -> None:
    save(tmp_path, Artifacts(model=Tied(), plan=plan_for(Tied())))
    with pytest.raises(
        PlanError, match=r"plan.json: does not say which network .* model=MyNetwork"
    ):
        load(tmp_path)


def test_another_network_is_refused_by_the_first_tensor_that_differs(tmp_path: Path) -> None:
    save(tmp_path, Artifacts(model=nn.Linear(3, 2), plan=plan_for(nn.Linear(3, 2))))
    with pytest.raises(PlanError, match=r"bias"):
        load(tmp_path, model=nn.Linear(3, 4))


def test_weights_of_another_run_are_refused(compressed: tuple[Path, nn.Module]) -> None:
    folder, _ = compressed
    save(folder, Artifacts(model=build_model("lissom:resnet8")))
    with pytest.raises(PlanError, match="weights and plan belong to different runs"):
        load(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan.json: no such file; expected a folder that lissom"):
        load(tmp_path)
    save(tmp_path, Artifacts(plan=plan_for(nn.Linear(1, 1))))
    with pytest.raises(WeightsError, match=r"weights.safetensors: no such file"):
        load(tmp_path, model=nn.Linear(1, 1))


def test_a_missing_packed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match=r"none\.lsm: can't be read \(No such file"):
        load(tmp_path / "none.lsm")


def test_complex_numbers_of_double_precision_are_for_packed_files_alone(tmp_path: Path) -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("z", torch.randn(3, dtype=torch.complex128))

    model = Complex()
    file = tmp_path / "model.lsm"
    file.write_bytes(packed_network(stored_state(model), plan_for(model)).content)
    assert torch.equal(load(file, model=Complex()).get_buffer("z"), model.get_buffer("z"))
    message = "z: is complex128, which weights.safetensors can't hold"
    with pytest.raises(WeightsError, match=message):
        unpack_file(file, tmp_path / "folder")
    with pytest.raises(WeightsError, match=message):
        save(tmp_path / "folder", Artifacts(model=model))
    with pytest.raises(PlanError, match=r"model\.lsm: does not say which network it changes"):
        load(file)


def test_a_truncated_weights_file_is_named(compressed: tuple[Path, nn.Module]) -> None:
    path = compressed[0] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"weights.safetensors: cut short or not a safetensors"):
        load(compressed[0])


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    with pytest.raises(WeightsError, match="_extra_state: the network's state holds a dict"):
        save(tmp_path, Artifacts(model=Odd(1, 1)))


def test_plan_report_and_recipe_come_back(tmp_path: Path) -> None:
    plan = plan_for(nn.Linear(3, 2), "lissom:resnet20")
    save(tmp_path, Artifacts(plan=plan, report=REPORT, recipe="seed: 3\n"))
    assert load_plan(tmp_path) == plan
    assert load_report(tmp_path) == REPORT
    assert (tmp_path / "recipe.yaml").read_text() == "seed: 3\n"
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema": 1,')
    with pytest.raises(LissomError, match=r"report.json: not JSON"):
        load_report(tmp_path)


def test_a_full_disk_leaves_the_run_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = nn.Linear(3, 2)
    save(tmp_path, Artifacts(model=old, plan=plan_for(old), report=REPORT))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = files._write

    def full(path: Path, content: bytes) -> None:
        if "report" in path.name:
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(files, "_write", full)
    new = nn.Linear(3, 2)
    report = dataclasses.replace(REPORT, source="elsewhere")
    with pytest.raises(
        LissomError, match=r"report.json: could not write [\d,]+ bytes .No space left"
    ):
        save(tmp_path, Artifacts(model=new, plan=plan_for(new), report=report))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
