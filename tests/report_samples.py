"""A small report whose figures can be checked by hand."""

from dataclasses import replace

from lissom.graph.layers import Refusal
from lissom.plan.cost import Cost
from lissom.report.measured import Measured, MetricValue
from lissom.report.report import (
    BudgetRow,
    LayerRow,
    LayerState,
    Provenance,
    Report,
)


def cost(params: int, macs: int) -> Cost:
    return Cost(params=params, macs=macs, bits=32 * params)


CURVES = {
    "prune": ((0.25, 0.01), (0.5, 0.05), (0.75, 0.4)),
    "decompose": ((0.25, 0.002), (0.5, 0.01), (0.75, 0.09)),
}

LAYERS = (
    LayerRow(
        "stem.conv",
        "conv2d",
        LayerState(cost(432, 442_368), 3, 16),
        LayerState(cost(432, 442_368), 3, 16),
        unit="stem.conv",
        group="keep",
        sensitivities={"prune": ((0.25, 0.3), (0.5, 0.9)), "decompose": ((0.25, 0.5), (0.5, None))},
    ),
    LayerRow(
        "stem.norm",
        "batch_norm",
        LayerState(cost(32, 0), 16, 16),
        LayerState(cost(32, 0), 16, 16),
    ),
    LayerRow(
        "block1.conv1",
        "conv2d",
        LayerState(cost(2304, 2_359_296), 16, 16),
        LayerState(cost(1152, 1_179_648), 16, 8),
        unit="block1.conv1",
        group="prune",
        decision="keep 8 of 16 channels",
        sensitivities=CURVES,
    ),
    LayerRow(
        "block1.conv2",
        "conv2d",
        LayerState(cost(2304, 2_359_296), 16, 16),
        LayerState(cost(480, 491_520), 8, 16, rank_in=6, rank_out=6),
        unit="block1.conv2",
        group="decompose",
        decision="Tucker-2 ranks 6, 6",
        sensitivities=CURVES,
    ),
    LayerRow(
        "head.linear",
        "linear",
        LayerState(cost(170, 160), 16, 10),
        LayerState(cost(170, 160), 16, 10),
    ),
)

REPORT = Report(
    method="hmc",
    source="lissom:tiny",
    original=Measured(
        params=5242,
        macs=5_161_120,
        size_bytes=22_000,
        metric=MetricValue("accuracy", 0.934, "fraction", higher_is_better=True),
        latency_ms=2.41,
        latency={
            "median_ms": 2.41,
            "quartile_low_ms": 2.38,
            "quartile_high_ms": 2.5,
            "batch": 1,
            "threads": 1,
            "runs": 50,
            "warmup": 10,
            "runtime": "onnxruntime 1.31.1",
        },
        peak_memory_bytes=81_920,
    ),
    compressed=Measured(
        params=2266,
        macs=2_113_696,
        size_bytes=10_096,
        metric=MetricValue("accuracy", 0.929, "fraction", higher_is_better=True),
        metric_raw=0.871,
        latency_ms=1.63,
        latency={
            "median_ms": 1.63,
            "quartile_low_ms": 1.6,
            "quartile_high_ms": 1.7,
            "batch": 1,
            "threads": 1,
            "runs": 50,
            "warmup": 10,
            "runtime": "onnxruntime 1.31.1",
        },
        peak_memory_bytes=61_440,
    ),
    budget=(BudgetRow("macs", "0.5", 2_580_560, 2_113_696, True, 412_000),),
    layers=LAYERS,
    refusals=(
        Refusal(
            "head.linear",
            "prune",
            "its outputs are the network's outputs",
            "net.py:12",
            "nothing to do",
        ),
    ),
    provenance=Provenance(
        seed=0,
        plan_hash="5f" * 32,
        created="2026-01-02T03:04:05+00:00",
        versions={"python": "3.11.7", "lissom": "0.1.0", "torch": "2.13.0"},
        machine={"processor": "Example CPU", "cores": 2, "threads": 2},
        seconds={"sensitivity": 21.5, "recover": 300.25},
    ),
    settings={"round_to": "auto", "tau": 0.4},
    evidence={"forwards": {"run": 120.5, "saved": 400.5}},
    predicted={"macs": 2_113_696, "params": 2266},
    onnx={"max_difference": 1.2e-7, "scale": 8.5, "dynamic_batch": True},
    warnings=("Held-out data was seen in training: the estimate of the drop is too good.",),
)

LEARNED = replace(
    REPORT,
    method="edp",
    layers=tuple(replace(row, sensitivities={}, group="") for row in LAYERS),
    methods={
        "edp": {
            "accuracy_before_merge": 0.9153,
            "accuracy_after_merge": 0.91525,
            "trajectory": [
                {"progress": 0.0, "macs": 1.0, "params": 1.0, "target": 1.0, "lambda": 0.0},
                {"progress": 0.25, "macs": 0.9, "params": 0.95, "target": 0.8, "lambda": 0.01},
                {"progress": 0.5, "macs": 0.6, "params": None, "target": 0.6, "lambda": 0.02},
                {"progress": 1.0, "macs": 0.41, "params": 0.43, "target": 0.5, "lambda": 0.0},
            ],
            "layers": [{"name": "block1.conv1", "rank": 6, "of": 16}],
            "merged": ["block1.conv1"],
            "removed": [],
        }
    },
)

PACKED = replace(
    REPORT,
    method="ajc",
    layers=tuple(
        replace(
            row,
            sensitivities={},
            group="",
            after=replace(row.after, weight_bits=3, density=0.25) if row.unit else row.after,
        )
        for row in LAYERS
    ),
    storage={
        "original_bytes": 20_968,
        "bytes": {
            "r1_no_index": 300.5,
            "r2_relative_index": 524.2,
            "r3_entropy_bound": 419.36,
            "r4_file": 1048,
        },
        "ratios": {
            "r1_no_index": 69.777,
            "r2_relative_index": 40.0,
            "r3_entropy_bound": 50.0,
            "r4_file": 20.0076,
        },
        "by_kind": {
            "levels": 400,
            "scales": 20,
            "plain_weights": 0,
            "norms_and_biases": 128,
            "header_and_plan": 500,
        },
        "estimates": {"mask": 210.3},
        "baselines": {
            "original_lzma": 19_000,
            "original_int8_onnx": 10_484,
            "levels_nncodec": None,
        },
    },
)
