import pytest
import torch

from lissom.data.load import load_data
from lissom.data.options import DataOptions


def count(batches):
    return sum(len(targets) for _, targets in batches)


def inputs_of(batches):
    return torch.cat([x for x, _ in batches])


def test_digits_sizes_and_statistics():
    loaded = load_data("digits")
    data = loaded.data
    assert (count(data.train), count(data.held_out), count(data.test)) == (1257, 180, 360)
    assert loaded.example_inputs[0].shape == (1, 1, 8, 8)
    assert loaded.classes == tuple("0123456789")
    inputs = inputs_of(data.test)
    # 360 images scatter around the training set's mean 0 and deviation 1.
    assert float(inputs.mean()) == pytest.approx(0, abs=0.05)
    assert float(inputs.std()) == pytest.approx(1, abs=0.05)


def test_digits_sets_are_disjoint_and_the_same_for_every_seed():
    plain = {"augment": False}
    first = load_data("digits", options=DataOptions(seed=0, **plain)).data
    second = load_data("digits", options=DataOptions(seed=1, **plain)).data

    def rows(batches):
        return sorted(tuple(row) for row in inputs_of(batches).flatten(1).tolist())

    assert rows(first.train) == rows(second.train)
    assert rows(first.held_out) == rows(second.held_out)
    assert rows(first.test) == rows(second.test)
    assert not torch.equal(inputs_of(first.train), inputs_of(second.train))
    # Some digits occur twice in the source; more than a few common rows would be a leak.
    assert len(set(rows(first.train)) & set(rows(first.test))) < 3
    other = load_data("digits", options=DataOptions(split_seed=1, **plain)).data
    assert rows(other.held_out) != rows(first.held_out)


def test_calibration_is_fixed():
    data = load_data("digits", options=DataOptions(batch_size=64, calibration_images=300)).data
    first = inputs_of(data.calibration)
    assert len(first) == 256
    assert torch.equal(first, inputs_of(data.calibration))


def test_options_change_the_inputs():
    def test_inputs(**options):
        return inputs_of(load_data("digits", options=DataOptions(**options)).data.test)

    raw = test_inputs(mean=(0.0,), std=(1.0,), scale=1.0)
    assert float(raw.max()) == 255
    unit = test_inputs(mean=(0.0,), std=(1.0,))
    assert torch.allclose(unit * 255, raw)
    assert len(load_data("digits", options=DataOptions(batch_size=7)).data.train) == 180
    reflected = load_data("digits", options=DataOptions(padding_mode="reflect")).data
    padded = load_data("digits", options=DataOptions(crop_padding=3)).data
    default = load_data("digits").data
    first = [inputs_of(d.train) for d in (default, reflected, padded)]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert count(load_data("digits", options=DataOptions(held_out=100)).data.held_out) == 100
