from collections.abc import Callable

import pytest
from arithmetic import check_sums

from lissom.report.terminal import WIDTH, as_text, layout
from report_samples import REPORT


def test_report_reads_as_committed(golden: Callable[[str, str], None]) -> None:
    text = as_text(layout(REPORT))
    golden(text, "report.txt")
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\x1b" not in text


def test_printed_columns_add_up() -> None:
    assert check_sums(as_text(layout(REPORT)), columns=2) == len(REPORT.layers)


def test_a_wrong_total_is_noticed() -> None:
    text = as_text(layout(REPORT)).replace("5.161M→2.114M", "5.161M→2.124M")
    with pytest.raises(AssertionError, match="rows add up to"):
        check_sums(text, columns=2)
