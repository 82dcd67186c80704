import pytest
import torch

from levels_one_by_one import error_feedback_levels
from lissom.quantization.ladder import LARGEST, Quadratic, ladder
from lissom.quantization.rate import code_lengths, magnitude_counts


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(size, seed=0):
    """Of correlated inputs."""
    mix = weight(size, size, seed=seed).double()
    return mix @ mix.T / size + 0.3


def steps(*values):
    return torch.tensor(values, dtype=torch.float64)


def output_error(original, levels, step, matrix):
    change = (original.double() - step * levels.double()).flatten(1)
    return float(torch.einsum("tn,nm,tm->", change, matrix, change))


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (7, 40)])
def test_the_error_is_of_the_output_and_the_bits_are_of_the_levels(shape):
    original = weight(*shape)
    matrix = covariance(original[0].numel())
    found = ladder(Quadratic.of(original, matrix), steps(0.1, 0.5, 1.5))
    for step, levels, bits, error in zip(
        found.steps, found.levels, found.bits, found.errors, strict=True
    ):
        assert levels.shape == shape
        assert float(error) == pytest.approx(output_error(original, levels, step, matrix))
        lengths = code_lengths(magnitude_counts(levels, int(levels.abs().max()) + 1))
        assert float(bits) == pytest.approx(float(lengths[levels.abs().long()].sum()), rel=1e-4)


def test_channels_take_each_kernel_position_by_itself():
    original, matrix = weight(6, 8, 3, 3), covariance(8)
    whole = torch.kron(matrix, torch.eye(9, dtype=torch.float64))  # channels first, as unfolded
    found = ladder(Quadratic.of(original, matrix), steps(0.7))
    assert found.levels.shape == (1, 6, 8, 3, 3)
    assert float(found.errors) == pytest.approx(
        output_error(original, found.levels[0], 0.7, whole), rel=1e-6
    )
    assert float(found.errors) < output_error(original, (original / 0.7).round(), 0.7, whole)


def test_many_steps_are_what_each_is_alone():
    quadratic = Quadratic.of(weight(6, 70), covariance(70))
    together = ladder(quadratic, steps(0.2, 0.6, 1.0))
    for index, step in enumerate((0.2, 0.6, 1.0)):
        alone = ladder(quadratic, steps(step))
        assert torch.equal(alone.levels[0], together.levels[index])


def test_a_large_weight_is_worked_on_in_parts(monkeypatch):
    quadratic = Quadratic.of(weight(6, 70), covariance(70))
    whole = ladder(quadratic, steps(0.2, 0.6, 1.0))
    monkeypatch.setattr("lissom.quantization.ladder.ELEMENTS", 900)
    assert torch.equal(ladder(quadratic, steps(0.2, 0.6, 1.0)).levels, whole.levels)


@pytest.mark.parametrize("shape", [(6, 70), (6, 70, 3, 3)])
def test_blocks_along_the_diagonal_are_a_covariance_with_zeros_beside_them(shape):
    """Of 70 inputs, 32 + 32 + 6: the last block is filled up."""
    matrix = covariance(70)
    blocks, beside = torch.zeros(3, 32, 32).double(), torch.zeros(70, 70).double()
    for number, first in enumerate((0, 32, 64)):
        part = matrix[first : first + 32, first : first + 32]
        blocks[number, : len(part), : len(part)] = part
        beside[first : first + 32, first : first + 32] = part
    original = weight(*shape)
    ours = ladder(Quadratic.of(original, blocks), steps(0.2, 0.7))
    theirs = ladder(Quadratic.of(original, beside), steps(0.2, 0.7))
    full = ladder(Quadratic.of(original, matrix), steps(0.2, 0.7))
    assert torch.equal(ours.levels, theirs.levels)
    assert torch.allclose(ours.errors, theirs.errors)
    assert torch.equal(ours.bits, theirs.bits)
    assert not torch.equal(ours.levels, full.levels)  # it can fail
    energy = Quadratic.of(original, blocks).energy
    assert energy == pytest.approx(Quadratic.of(original, beside).energy)


def test_independent_inputs_need_no_matrix_of_all_pairs():
    original = weight(3, 50_000)
    alone = Quadratic.of(original, None)
    assert sum(block.numel() for block in alone.blocks) < 2_000_000
    assert alone.energy == pytest.approx(float(original.double().square().sum()))
    small = weight(6, 70)
    ours = ladder(Quadratic.of(small, None), steps(0.2, 0.7))
    theirs = ladder(Quadratic.of(small, torch.eye(70)), steps(0.2, 0.7))
    assert torch.equal(ours.levels, theirs.levels)


def test_nearly_reaches_the_reference_at_the_same_price():
    """The one-step form compares all levels; here it is zero and two neighbours."""
    original, matrix, step = weight(16, 60), covariance(60), 0.8
    found = ladder(Quadratic.of(original, matrix), steps(step))
    levels = found.levels[0]
    lengths = code_lengths(magnitude_counts(levels, int(levels.abs().max()) + 1))
    damped = matrix + 0.01 * matrix.diagonal().mean() * torch.eye(60, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    price = 0.1 * step**2 * float((-2 * factor.diagonal().log()).mean().exp())
    reference = error_feedback_levels(original, matrix, torch.tensor(step), lengths, price)
    theirs = output_error(original, reference, step, matrix) + price * float(
        lengths[reference.abs().long()].sum()
    )
    ours = float(found.errors) + price * float(found.bits)
    assert ours < 1.02 * theirs
    assert float((levels != reference.to(torch.int8)).double().mean()) < 0.1


@pytest.mark.parametrize("inputs", ["correlated", "independent"])
def test_beats_rounding_at_the_same_bits(inputs):
    original = weight(32, 60)
    matrix = covariance(60) if inputs == "correlated" else None
    metric = torch.eye(60, dtype=torch.float64) if matrix is None else matrix
    rounded = original.div(1.0).round()
    lengths = code_lengths(magnitude_counts(rounded, 5))
    bits = float(lengths[rounded.abs().long()].sum())
    found = ladder(Quadratic.of(original, matrix), torch.arange(0.7, 1.1, 0.01).double())
    fitting = found.errors[found.bits <= bits]
    assert float(fitting.min()) < 0.97 * output_error(original, rounded, 1.0, metric)


def test_coarser_steps_take_fewer_bits_and_err_more_down_to_zeros():
    original = weight(16, 40)
    largest = float(original.abs().max())
    found = ladder(Quadratic.of(original, covariance(40)), largest * steps(1 / 127, 0.1, 0.5, 2.1))
    assert found.bits.tolist() == sorted(found.bits.tolist(), reverse=True)
    assert found.errors.tolist() == sorted(found.errors.tolist())
    assert not found.levels[-1].any()
    assert float(found.errors[-1]) == pytest.approx(
        Quadratic.of(original, covariance(40)).energy, rel=1e-9
    )
    assert float(found.bits[-1]) < 0.01 * original.numel()


def test_a_step_too_fine_clips():
    original = weight(4, 9)
    levels = ladder(Quadratic.of(original, None), steps(float(original.abs().max()) / 300)).levels
    assert int(levels.abs().max()) == LARGEST
    assert torch.equal(levels[0].sign(), original.sign().to(torch.int8))


def test_a_weight_of_zeros_stays():
    found = ladder(Quadratic.of(torch.zeros(4, 9), covariance(9)), steps(0.1))
    assert not found.levels.any()
    assert float(found.errors) == 0


def test_inputs_that_never_vary_are_no_trouble():
    found = ladder(Quadratic.of(weight(4, 9), torch.zeros(9, 9)), steps(0.5))
    assert bool(torch.isfinite(found.errors).all())


def test_refuses_a_covariance_of_another_layer():
    with pytest.raises(ValueError, match="expected 45 over patches or 5 over channels"):
        Quadratic.of(weight(6, 5, 3, 3), torch.eye(7))
