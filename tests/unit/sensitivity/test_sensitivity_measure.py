import math
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from lissom.errors import DataError, ModelError
from lissom.sensitivity import measure as measuring
from lissom.sensitivity.measure import Candidate, Harms, measure
from lissom.task import Classification
from method_samples import Small, batches_of, seeded

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def model():
    return seeded(Small)


def halved(model, name: str, unit: str = "u") -> Candidate:
    return Candidate(unit, "prune", 0.5, {name: model.get_parameter(name).detach() / 2})


def candidates(model) -> list[Candidate]:
    return [halved(model, f"{name}.weight", name) for name in ("stem", "a", "head")]


def direct(model, candidate: Candidate, batches, task) -> list[float]:
    """Measure on the whole network."""
    harms = []
    for images, _ in batches:
        with torch.no_grad():
            outputs = functional_call(model, dict(candidate.overrides), (images,))
            harms.append(float(task.distance(outputs, model(images))))
    return harms


def test_harms_equal_those_of_whole_runs(model):
    batches, task = batches_of(*SHAPE, count=3), Classification()
    harms = measure(model, candidates(model), batches, task, images=48)
    for candidate, mean, error in zip(candidates(model), harms.mean, harms.error, strict=True):
        values = torch.tensor(direct(model, candidate, batches, task), dtype=torch.float64)
        assert mean == pytest.approx(float(values.mean()), rel=1e-3)
        assert error == pytest.approx(float(values.std() / math.sqrt(3)), rel=1e-3)
        assert mean > 1e-4
    assert harms.images == 48


def test_a_single_batch_has_an_error_too(model):
    (images, classes), task = batches_of(*SHAPE, count=1, size=34)[0], Classification()
    alone = measure(model, candidates(model), [(images, classes)], task, images=34)
    parts = [(images[i : i + 8], classes[i : i + 8]) for i in range(0, 32, 8)]
    assert alone == measure(model, candidates(model), parts, task, images=32)
    assert alone.images == 32
    assert min(alone.error) > 0
    few = measure(model, candidates(model), [(images[:15], classes[:15])], task, images=15)
    assert (few.images, set(few.error)) == (15, {0.0})


@pytest.mark.parametrize(
    ("size", "parts"), [(128, 2), (64, 1), (96, 2), (125, 1), (65, 1), (300, 5)]
)
def test_large_batches_are_taken_in_parts(model, size, parts):
    batches = batches_of(*SHAPE, count=2, size=size)
    found = measure(model, candidates(model), batches, Classification(), images=2 * size)
    assert found.images == 2 * size
    assert found.forwards == 2 * parts * (1 + len(candidates(model)))
    cut = [
        (images[place : place + size // parts], classes[place : place + size // parts])
        for images, classes in batches
        for place in range(0, size, size // parts)
    ]
    assert found == measure(model, candidates(model), cut, Classification(), images=2 * size)


def test_the_comparison_notices_other_weights(model):
    batches, task = batches_of(*SHAPE, count=1), Classification()
    measured = measure(model, [halved(model, "a.weight")], batches, task, images=16).mean[0]
    wrong = direct(model, halved(model, "b.weight"), batches, task)[0]
    assert measured != pytest.approx(wrong, rel=1e-3)


def test_what_lies_before_the_change_is_not_run(model):
    batches, task = batches_of(*SHAPE), Classification()
    late = measure(model, [halved(model, "head.weight")], batches, task, images=32)
    assert late.forwards == 4
    assert 2 <= late.forwards_run < 2.1  # two references, and two runs of the head alone


def test_the_network_stays_as_it_is(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, candidates(model), batches_of(*SHAPE), Classification(), images=16)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_images_bound_the_batches_and_smaller_ones_are_left_out(model):
    batches = [*batches_of(*SHAPE, count=2), *batches_of(*SHAPE, count=1, size=5)]
    one = [halved(model, "head.weight")]
    assert measure(model, one, batches, Classification(), images=1).images == 16
    assert measure(model, one, batches, Classification(), images=17).images == 32
    assert measure(model, one, batches, Classification(), images=1000).images == 32


def test_a_second_measurement_runs_nothing(model, tmp_path, monkeypatch):
    arguments = model, candidates(model), batches_of(*SHAPE), Classification()
    first = measure(*arguments, images=32, cache=tmp_path)
    monkeypatch.setattr(measuring, "Replay", None)
    second = measure(*arguments, images=32, cache=tmp_path)
    assert (second.forwards, second.forwards_run) == (0, 0.0)
    assert (second.mean, second.error) == (first.mean, first.error)


def test_a_damaged_cache_costs_a_new_measurement(model, tmp_path):
    arguments = model, candidates(model), batches_of(*SHAPE), Classification()
    first = measure(*arguments, images=32, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:40])
    second = measure(*arguments, images=32, cache=tmp_path)
    assert second.forwards == first.forwards
    assert second.mean == first.mean


class Doubled(Classification):
    def distance(self, outputs, reference, temperature=1.0):
        return 2 * super().distance(outputs, reference, temperature)


def test_changed_weights_data_or_task_do_not_hit_the_cache(model, tmp_path):
    one, batches = [halved(model, "head.weight")], batches_of(*SHAPE)
    first = measure(model, one, batches, Classification(), images=32, cache=tmp_path)
    other = seeded(Small)
    other.stem.weight.data[0] *= 1.5
    changed = [
        measure(other, one, batches, Classification(), images=32, cache=tmp_path),
        measure(
            model, one, batches_of(*SHAPE, seed=2), Classification(), images=32, cache=tmp_path
        ),
        measure(model, one, batches, Doubled(), images=32, cache=tmp_path),
    ]
    for second in changed:
        assert second.forwards > 0
        assert second.mean != first.mean
    another = [Candidate("u", "prune", 0.5, {"head.weight": torch.zeros(5, 32)})]
    assert measure(model, another, batches, Classification(), images=32, cache=tmp_path).forwards


def test_another_forward_over_the_same_tensors_does_not_hit_the_cache(model, tmp_path):
    class Bent(Small):
        def forward(self, x):
            return super().forward(x).tanh()

    one, batches = [halved(model, "head.weight")], batches_of(*SHAPE)
    first = measure(model, one, batches, Classification(), images=32, cache=tmp_path)
    bent = seeded(Bent)
    bent.load_state_dict(model.state_dict())
    second = measure(bent, one, batches, Classification(), images=32, cache=tmp_path)
    assert second.forwards > 0
    assert second.mean != first.mean


class Interrupted(Classification):
    """Stops after some distances, as a killed run would."""

    def __init__(self, after: float) -> None:
        self.calls, self.after = count(1), after

    def distance(self, outputs, reference, temperature=1.0):
        if next(self.calls) > self.after:
            raise KeyboardInterrupt
        return super().distance(outputs, reference, temperature)


def test_after_an_interruption_only_the_rest_is_measured(model, tmp_path):
    arguments = model, candidates(model), batches_of(*SHAPE, count=3)
    with pytest.raises(KeyboardInterrupt):
        measure(*arguments, Interrupted(after=4), images=48, cache=tmp_path)
    rest = measure(*arguments, Interrupted(math.inf), images=48, cache=tmp_path)
    whole = measure(*arguments, Interrupted(math.inf), images=48)
    assert whole.forwards == 3 * (3 + 1)  # three batches of three candidates and a reference
    assert rest.forwards == 2 * (3 + 1)
    assert rest.mean == pytest.approx(whole.mean, rel=1e-6)


def test_a_network_in_place_of_weights_is_run_whole(model):
    batches = batches_of(*SHAPE, count=1, size=12)
    other = seeded(Small, seed=3)
    candidate = Candidate("u", "prune", 0.5, {}, lambda: other)
    harms = measure(model, [candidate], batches, Classification(), images=12)
    with torch.no_grad():
        expected = Classification().distance(other(batches[0][0]), model(batches[0][0]))
    assert harms.mean[0] == pytest.approx(float(expected), rel=1e-4)
    assert harms.forwards_run == 2.0


class Undecidable(nn.Module):
    """Its code depends on values, so that no graph can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(x) if x.sum() > 0 else x)


def test_a_network_that_has_no_graph_is_run_whole():
    model, batches, task = seeded(Undecidable), batches_of(4), Classification()
    candidate = halved(model, "b.weight")
    harms = measure(model, [candidate], batches, task, images=32)
    expected = direct(model, candidate, batches, task)
    assert harms.mean[0] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert harms.forwards_run == harms.forwards == 4


def test_a_distance_that_is_not_finite_names_the_unit(model):
    broken = Candidate("a", "prune", 0.5, {"a.weight": torch.full((24, 16, 3, 3), torch.nan)})
    with pytest.raises(ModelError, match=r"a: with 50% removed \(prune\) .* nan, expected"):
        measure(model, [broken], batches_of(*SHAPE), Classification(), images=16)


def test_no_batch_is_an_error(model):
    with pytest.raises(DataError, match="calibration set gave no batch"):
        measure(model, candidates(model), [], Classification(), images=16)


def test_equal_candidates_are_measured_once(model):
    batches, task = batches_of(*SHAPE, count=3), Classification()
    one = halved(model, "a.weight")
    alone = measure(model, [one], batches, task, images=48)
    twice = measure(model, [one, one], batches, task, images=48)
    assert twice.mean == alone.mean * 2
    assert twice.error == alone.error * 2
    assert twice.forwards == alone.forwards


def test_nothing_to_measure_runs_nothing(model):
    harms = measure(model, [], batches_of(*SHAPE), Classification(), images=16)
    assert harms == Harms((), (), 0, 0, 0.0)


def test_noise_is_the_median_error_and_never_zero():
    assert Harms((1.0,) * 3, (0.1, 0.3, 0.2), 1, 1, 1.0).noise == 0.2
    assert Harms((1.0,), (0.0,), 1, 1, 1.0).noise > 0
    assert Harms((), (), 0, 0, 0.0).noise > 0


def test_an_input_of_all_samples_keeps_a_large_batch_whole():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, scale):
            return self.layer(x) * scale

    class Task(Classification):
        def inputs(self, batch):
            return batch

    torch.manual_seed(0)
    batches = [(torch.randn(128, 4), torch.tensor(2.0)) for _ in range(2)]
    model = Scaled().eval()
    one = Candidate("layer", "prune", 0.5, {"layer.weight": 0.5 * model.layer.weight.detach()})
    found = measure(model, [one], batches, Task(), images=256)
    assert (found.images, found.forwards) == (256, 4)
