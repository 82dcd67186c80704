"""Bad input: one message that says what, where, what was expected; exit code 2; nothing left."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_runs import Finished
from PIL import Image
from safetensors.torch import load_file, save_file

from lissom.cli.app import run
from lissom.export import files
from lissom.report.report import Report

NET = ("--model", "lissom:digits_resnet", "--data", "digits", "--budget", "macs=0.5")
FACTORY = "--model=lissom.models.resnet_cifar:digits_resnet"


def refused(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Give the message of a run that must be refused and leave nothing behind."""
    assert run(["compress", *arguments, "--out", str(out)]) == 2
    assert not out.exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert printed.err.endswith(f"{errors[0]}\n")
    return errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet50"], "did you mean lissom:resnet56?); expected lissom:NAME, torchvi"),
        (["--model", "runs/none"], "package.module:factory, or a folder that lissom compress wro"),
        (["--model", "lissom:resnet21"], "lissom has no network 'resnet21'; known: digits_resnet"),
        (["--model", "no_such:thing"], "no_such:thing: No module named 'no_such'"),
        (["--model", "lissom:resnet20"], "does not run on example_inputs of shapes (2, 1, 8, 8)"),
        (["--set", "model.arguments.depth=3"], "can't be built with the arguments {'depth': 3}"),
        (["--set", "model.arguments.classes=7"], "has 10 classes, the network has 7 outputs"),
        (["--weights", "gone.pt"], "gone.pt: no such file; give a .safetensors"),
        (["--data", "nothing"], "no built-in data set 'nothing'; there are digits"),
        (["--data", "cifar10"], "cifar10 is not embedded: give its folder (--data-dir"),
        (["--data", "image_folder"], "image_folder: needs its folder (--data-dir"),
        (["--data-dir", "there"], "digits: come with scikit-learn, not from there"),
        (["--budget", "macs=0"], "budget: macs=0; expected a fraction between 0 and 1"),
        (["--budget", "macs=1.5"], "budget: macs=1.5; expected a fraction between 0 and 1"),
        (["--budget", "size=0.5"], "hmc can be held to latency, macs and params; ajc can: for"),
        (
            ["--method", "ajc", "--budget", "latency=2ms"],
            "a limit on latency is not offered here: ajc can be held to max_drop and size; ",
        ),
        (["--budget", "macs=0.001"], "the smallest that hmc can reach is "),
        (["--method", "hcm"], "method: 'hcm' is not known; choose one of ahc, "),
        (["--ignore", "conv9"], "ignore: 'conv9' is not a layer of the network; "),
        (["--device", "nowhere"], "device='nowhere': not available here"),
        (["--teacher", "lissom:resnet20"], "teacher: can't be run beside the network"),
        (["--set", "teacher.name=lissom:digits_resnet", "--set", "teacher.arguments.classes=12"],
         "teacher: gives outputs of shape (1, 12), the network (1, 10)"),
        (["--set", "stages.0.critrion=l1"], "stages.0.critrion: unknown key; did you mean 'crit"),
        (["--set", "data.bach_size=3"], "data.bach_size: unknown key; did you mean 'batch_size'"),
        (["--set", "bugdet=3"], "bugdet: unknown key; did you mean 'budget'"),
        (["--set", "input=nonsense"], "input 'nonsense': expected sizes of at least 1 with the b"),
        (["--set", "input=1x0x8x8"], "input '1x0x8x8': expected sizes of at least 1"),
        (["--input", "1x3x8x8"], "does not run on example_inputs of shapes (2, 3, 8, 8)"),
    ],
)  # fmt: skip
def test_bad_options(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused([*NET, *arguments], tmp_path / "out", capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused([*NET, "--device", "cuda"], tmp_path / "out", capsys)
    assert "device='cuda': not available here" in message


def test_the_feasibility_table_is_printed_before_the_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compress", *NET, "--budget", "macs=0.001", "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    table = next(i for i, line in enumerate(lines) if line.split() == TABLE)
    assert lines[table + 1].split()[0] == "macs"
    assert lines[table + 2].startswith("error: budget: macs=0.001 asks for ")
    # What is named as reachable is reachable.
    smallest = lines[table + 1].split()[1].replace(",", "")
    assert run(["compress", *NET, "--budget", f"macs={smallest}", *DRY, str(tmp_path / "o")]) == 0


TABLE = ["budget", "smallest", "now", "asked"]
FEW = ("--set=data.calibration_images=128", "--set=stages.0.images=128", "--set=data.batch_size=64")
DRY = (*FEW, "--set=stages.0.fractions=[0.5]", "--set=stages.0.rounds=1", "--dry-run", "--out")


@pytest.mark.parametrize("damage", ["truncated", "shape", "nan", "other"])
def test_damaged_weights(
    damage: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, tensors = tmp_path / "w.safetensors", load_file(weights)
    if damage == "shape":
        tensors["linear.weight"] = tensors["linear.weight"][:, :5].clone()
    elif damage == "nan":
        tensors["conv1.weight"][0, 0, 0, 0] = float("nan")
    elif damage == "other":
        del tensors["linear.bias"]
    save_file(tensors, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    message = refused([*NET, "--weights", str(path)], tmp_path / "out", capsys)
    expected = {
        "truncated": "truncated or not a safetensors file",
        "shape": "linear.weight has shape (10, 5), the network expects (10, 40)",
        "nan": "conv1.weight holds 1 NaN or infinite of 216 values",
        "other": "1 of 56 tensors are missing, first 'linear.bias'",
    }
    assert "w.safetensors: " in message
    assert expected[damage] in message


def image_folder(place: Path, images: int) -> Path:
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = place / part / name
            folder.mkdir(parents=True)
            for index in range(images):
                pixels = np.full((8, 8, 3), 20 * index, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return place


def folder_arguments(place: Path) -> list[str]:
    network = ["--model", "torchvision:squeezenet1_1", "--set", "data.image_size=[32, 32]"]
    data = ["--data", "image_folder", "--data-dir", str(place), "--budget", "macs=0.5"]
    return [*network, *data, "--set", "data.batch_size=2"]


def test_an_empty_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = image_folder(tmp_path / "images", images=0)
    message = refused(folder_arguments(place), tmp_path / "out", capsys)
    assert f"{place / 'train'}: holds no images; expected train/CLASS/IMAGE" in message


def test_a_corrupt_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = image_folder(tmp_path / "images", images=3)
    broken = place / "test" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    message = refused(folder_arguments(place), tmp_path / "out", capsys)
    assert f"{broken}: can't be decoded" in message


def test_a_full_disk_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_write", full)
    message = refused(list(NET), tmp_path / "out", capsys)
    assert "run.json: could not write" in message
    assert "No space left on device" in message


def test_a_full_disk_at_the_end_leaves_no_half_of_a_result(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files._write

    def full(path: Path, content: bytes) -> None:
        if "model.onnx" in path.name:
            path.write_bytes(content[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(files.LissomError, match=r"model.onnx: could not write [\d,]+ bytes"):
        finished.result.save(tmp_path / "out", "seed: 3\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    recipe_file: Path, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["compress", str(recipe_file), "--dry-run", "--out", str(out)]) == 0
    assert not out.exists()
    printed = capsys.readouterr()
    report: Report = finished.result.report
    assert TABLE in [line.split() for line in printed.err.splitlines()]
    lines = [line.split() for line in printed.out.splitlines()]
    for row in report.layers:
        if row.before.cost.macs:
            assert any(line[:2] == [row.name, row.group] for line in lines), row.name
    assert "Predicted, not measured: MACs 2.171M→" in printed.out
    assert (printed.out + printed.err).count("smallest") == 1


def test_networks_that_a_run_or_a_factory_gives_are_checked(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[Any] = ["--model", str(finished.out), "--set", "model.arguments.classes=3"]
    message = refused([*NET, *arguments], tmp_path / "out", capsys)
    assert "model.arguments.classes:" in message
    assert "the only argument is factory" in message
    given = [*NET[2:], FACTORY, "--set", "model.arguments.wrong=3"]
    message = refused(given, tmp_path / "out", capsys)
    assert "can't be built with the arguments {'wrong': 3}" in message
