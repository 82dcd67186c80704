import pytest
import torch

from lissom.errors import DataError
from lissom.quantization.activation_ranges import (
    ESTIMATORS,
    Affine,
    Histogram,
    Range,
    affine,
    collect_ranges,
    min_max,
    mse,
    percentile,
)


def seen(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.observe(batch)
    return histogram


def rounding_error(values: torch.Tensor, span: Range) -> float:
    how = affine(span)
    levels = (values / how.scale).round().add(how.zero_point).clamp(0, 255)
    return float(((levels - how.zero_point) * how.scale - values).square().mean())


def test_zero_is_exact_and_zero_point_0_after_a_relu() -> None:
    assert affine(Range(0.0, 6.0)) == Affine(pytest.approx(6 / 255), 0)
    how = affine(Range(-1.0, 3.0))
    assert how.zero_point == 64
    assert affine(Range(-1.0, 0.0)).zero_point == 255
    assert affine(Range(0.0, 0.0)) == Affine(1.0, 0)


def test_a_range_holds_zero_and_is_finite() -> None:
    with pytest.raises(ValueError, match=r"range 1.0 .. 2.0: expected to hold 0"):
        Range(1.0, 2.0)
    with pytest.raises(ValueError, match="expected finite ends"):
        Range(0.0, float("inf"))


def test_min_max_is_exact_over_all_batches_and_reaches_zero() -> None:
    histogram = seen(torch.tensor([2.0, 3.0]), torch.tensor([-1.5, 40.0]), torch.tensor([7.0]))
    assert min_max(histogram) == Range(-1.5, 40.0)
    assert min_max(seen(torch.tensor([2.0, 3.0]))) == Range(0.0, 3.0)


@pytest.mark.parametrize("far", [-3.0, 4.0])
def test_values_keep_their_place_when_bins_widen(far: float) -> None:
    histogram = seen(torch.linspace(0, 1, 1000), torch.tensor([far]))
    assert histogram.counts.sum() == 1001
    assert len(histogram.counts) == 2048
    close = (histogram.centres > -0.01) & (histogram.centres < 1.01)
    assert histogram.counts[close].sum() == 1000
    apart = abs(histogram.centres - far) < 0.01
    assert histogram.counts[apart].sum() == 1
    half = histogram.counts[close & (histogram.centres < 0.5)].sum()
    assert half == pytest.approx(500, abs=5)


def test_percentile_clips_the_share_beyond_each_end() -> None:
    values = torch.linspace(-1, 1, 10001)
    span = percentile(seen(values), beyond=0.05)
    assert span.low == pytest.approx(-0.9, abs=0.002)
    assert span.high == pytest.approx(0.9, abs=0.002)
    assert percentile(seen(values.relu())).low == 0.0


def test_mse_clips_an_outlier_and_rounds_better_than_the_others() -> None:
    torch.manual_seed(0)
    values = torch.cat((torch.randn(100_000), torch.tensor([60.0])))
    histogram = seen(values)
    errors = {name: rounding_error(values, ESTIMATORS[name](histogram)) for name in ESTIMATORS}
    assert mse(histogram).high < 60
    assert min(errors, key=lambda name: errors[name]) == "mse"


def test_a_tensor_without_outliers_is_not_clipped_by_mse() -> None:
    span = mse(seen(torch.linspace(0, 1, 5000)))
    assert span.high == pytest.approx(1.0, abs=0.01)


def test_ranges_by_name_over_batches_of_different_size() -> None:
    ranges = collect_ranges(
        [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([4.0]), "b": torch.tensor([-1.0])}],
        "min_max",
    )
    assert ranges == {"a": Range(0.0, 4.0), "b": Range(-1.0, 0.0)}


def test_what_cannot_be_calibrated_is_named() -> None:
    with pytest.raises(DataError, match="relu_3: calibration: a tensor holds NaN"):
        collect_ranges([{"relu_3": torch.tensor([float("nan")])}])
    with pytest.raises(DataError, match="no images"):
        collect_ranges([])
    with pytest.raises(ValueError, match="expected one of min_max, percentile, mse"):
        collect_ranges([{"a": torch.ones(2)}], "median")
