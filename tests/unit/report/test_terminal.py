import dataclasses

from lissom.report.html import page
from lissom.report.terminal import WIDTH, as_text, layout
from report_samples import LEARNED, REPORT


def test_long_names_wrap_and_nothing_is_cut_off() -> None:
    name = "features.denseblock3.denselayer24.conv2.parametrizations.weight.original"
    rows = (dataclasses.replace(REPORT.layers[2], name=name), *REPORT.layers[3:])
    text = as_text(layout(dataclasses.replace(REPORT, layers=rows)))
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "…" not in text
    table = text[text.index("Layers (") :].splitlines()
    width = table[1].index("group") if "group" in table[1] else table[2].index("group")
    assert name in "".join(line[:width].strip() for line in table)


def test_ranks_have_a_column_where_a_layer_has_ranks() -> None:
    assert "in/out" in as_text(layout(REPORT))
    whole = tuple(dataclasses.replace(row, after=row.before) for row in REPORT.layers)
    assert "in/out" not in as_text(layout(dataclasses.replace(REPORT, layers=whole)))


def test_a_broken_budget_is_shouted() -> None:
    broken = dataclasses.replace(REPORT.budget[0], met=False)
    assert "NO" in as_text(layout(dataclasses.replace(REPORT, budget=(broken,))))


def test_what_was_not_measured_is_a_dash_or_left_out() -> None:
    bare = dataclasses.replace(
        REPORT.compressed,
        metric=None,
        metric_raw=None,
        latency_ms=None,
        latency={},
        size_bytes=None,
        peak_memory_bytes=None,
    )
    before = dataclasses.replace(
        REPORT.original, metric=None, latency_ms=None, latency={}, peak_memory_bytes=None
    )
    text = as_text(layout(dataclasses.replace(REPORT, original=before, compressed=bare)))
    assert "latency" not in text.lower()
    assert "accuracy" not in text
    assert "activations" not in text
    assert "–" in text


def test_predictions_are_labelled() -> None:
    text = as_text(layout(REPORT))
    assert "Predicted before building, not measured: macs 2,113,696, params 2,266." in text


def test_convolutions_that_went_into_others_are_counted() -> None:
    assert "went into" not in as_text(layout(REPORT))
    check = {"max_difference": 1e-6, "scale": 2.0, "merged": 3}
    text = " ".join(as_text(layout(dataclasses.replace(REPORT, onnx=check))).split())
    assert "where outputs reach 2; 3 1x1 convolutions went into those behind them." in text


def test_refusals_of_one_reason_share_a_row() -> None:
    one = REPORT.refusals[0]
    many = tuple(dataclasses.replace(one, layer=f"layer{i}") for i in range(9))
    text = as_text(layout(dataclasses.replace(REPORT, refusals=many)))
    assert "layer0, layer1, layer2 and 6 more" in text
    assert text.count(one.reason) == 1


def test_layers_that_no_method_works_on_are_only_counted() -> None:
    one = dataclasses.replace(REPORT.refusals[0], layer="stem.norm", reason="a norm is not cut")
    report = dataclasses.replace(REPORT, refusals=(one, *REPORT.refusals))
    for text in (as_text(layout(report)), page(report)):
        assert "1 × batch_norm" in text
    line = next(line for line in as_text(layout(report)).splitlines() if "a norm is" in line)
    assert line.split() == [
        "prune",
        *["1", "×", "batch_norm", "a", "norm", "is", "not", "cut;", "nothing", "to", "do"],
    ]


def test_what_merging_changed_is_one_line() -> None:
    line = "edp: accuracy right before merging 0.9153, right after 0.9153."
    assert line in as_text(layout(LEARNED)).splitlines()
    silent = dataclasses.replace(LEARNED, methods={"edp": {"accuracy_before_merge": 0.9}})
    assert "merging" not in as_text(layout(silent))
