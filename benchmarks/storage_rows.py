"""The rows of storage.py: what is trained, for how long, with which settings."""

from __future__ import annotations

from collections.abc import Iterator

from row import Row

GROUPS = ("goal", "curve", "post-training", "ablation", "published")
_GOALS = {"resnet8": "15x", "resnet20": "25x", "resnet56": "40x", "digits_resnet": "25x"}
_CURVES = {
    "resnet8": ("8x", "12x", "20x", "30x"),
    "resnet20": ("12x", "18x", "30x", "40x"),
    "resnet56": ("20x", "30x", "50x", "60x"),
    "digits_resnet": ("15x", "50x"),
}
_UNTRAINED = ("8x", "12x", "16x", "20x")
# Curves and ablations in few epochs, so that two cores see their end; the goals in many.
_BRIEF, _WHOLE = 5, {"digits_resnet": 5}
_SHORTER = {"resnet20": (15,), "resnet56": (7,)}  # what one core sees the end of
_ABLATIONS = {
    "faithful-price": ("stages.0.price=binary_entropy",),
    "prune-then-quantize": ("stages.0.order=prune_then_quantize",),
    "uniform": ("stages.0.allocation=uniform",),
}
# What the paper reports, bits per weight from its ratios; for a GPU.
_PUBLISHED = {"vgg16_bn": ("143x",), "resnet18": ("151.6x",), "mobilenet_v2": ("19.7x",)}
_PUBLISHED_EPOCHS = 100


def rows_of(network: str) -> Iterator[Row]:
    """Yield the rows of one network."""
    if network in _PUBLISHED:
        for ratio in (*_PUBLISHED[network], "20x", "50x"):
            yield _row("published", network, ratio, _PUBLISHED_EPOCHS, length="long")
        return
    whole = _WHOLE.get(network, 30)
    lengths = (*_SHORTER.get(network, ()), whole)
    yield from (_row("goal", network, _GOALS[network], epochs) for epochs in lengths)
    for ratio in _CURVES[network]:
        yield _row("curve", network, ratio, _BRIEF)
    for ratio in _UNTRAINED:
        yield _row("post-training", network, ratio, 0, ("stages.0.mode=post_training",))
    if network == "resnet20":
        yield _row("goal", network, "30x", whole)
    if network in ("resnet20", "digits_resnet"):
        yield _row("ablation", network, _GOALS[network], _BRIEF)
        for name, settings in _ABLATIONS.items():
            yield Row("ablation", network, name, _BRIEF, f"size={_GOALS[network]}", settings)


def _row(
    group: str,
    network: str,
    ratio: str,
    epochs: int,
    settings: tuple[str, ...] = (),
    length: str = "usual",
) -> Row:
    return Row(group, network, ratio, epochs, f"size={ratio}", settings, length)
