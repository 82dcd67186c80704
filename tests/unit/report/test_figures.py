import pytest

from lissom.plan.cost import Cost
from lissom.report import figures
from lissom.report.measured import MetricValue
from lissom.report.report import LayerState

ACCURACY = MetricValue("accuracy", 0.9, "fraction", True)
PSNR = MetricValue("psnr", 31.0, "dB", True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (2304, "2.304k"),
        (62_745_600, "62.75M"),
        (999_960, "1.000M"),
        (9_999_600, "10.00M"),
        (1.5e9, "1.500G"),
        (None, "–"),
    ],
)
def test_counts_have_four_digits(value: float | None, text: str) -> None:
    assert figures.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(812, "812 B"), (10_096, "10.1 kB"), (3_440_000, "3.44 MB"), (None, "–")]
)
def test_bytes_are_decimal(value: float | None, text: str) -> None:
    assert figures.byte_size(value) == text


def test_ratio_is_original_over_compressed() -> None:
    assert figures.ratio(4, 2) == "2.00×"
    assert figures.ratio(None, 2) == "–"
    assert figures.ratio(4, 0) == "–"


def test_fractions_change_in_points_and_others_in_their_unit() -> None:
    assert figures.metric(ACCURACY, 0.934) == "93.40 %"
    assert figures.change(ACCURACY, 0.934, 0.929) == "−0.50 points"
    assert figures.metric(PSNR, 31.0) == "31 dB"
    assert figures.change(PSNR, 31.0, 31.5) == "+0.5 dB"
    assert figures.change(None, 1, 2) == "–"


def test_channels_and_ranks() -> None:
    before = LayerState(Cost(), 16, 16)
    assert figures.channels(before, before) == "16"
    assert figures.channels(before, LayerState(Cost(), 16, 8)) == "16→8"
    assert figures.ranks(LayerState(Cost(), 16, 16, rank_in=4, rank_out=6)) == "4/6"
    assert figures.ranks(before) == ""


def test_durations() -> None:
    assert figures.duration(21.54) == "21.5 s"
    assert figures.duration(300.25) == "5 min 0 s"


def test_lists_show_nested_values() -> None:
    assert figures.listed({"a": 1.23456, "b": {"c": (1, True)}}) == "a 1.235, b (c [1, True])"


def test_a_change_for_the_worse_says_so() -> None:
    assert figures.compared(3.0, 1.0, "faster", "slower") == "3.00× faster"
    assert figures.compared(1.0, 1.02, "faster", "slower") == "1.02× slower"
    assert figures.compared(1.0, 1.001, "faster", "slower") == "unchanged"
    assert figures.compared(1.0, 0.0, "faster", "slower") == figures.NONE
