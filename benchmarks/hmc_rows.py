"""The rows of hmc.py: what is compressed, for how long, with which settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from row import Row

GROUPS = ("ablation", "never-slower", "goal", "against", "rival", "published")
RIVALS = ("magnitude", "magnitude-0.01", "taylor", "taylor-0.01")
_ARMS = {
    "hmc": (),
    "nahc": ("stages.0.variant=nahc",),
    "ahc": ("stages.0.variant=ahc",),
    "ahc-sum": ("stages.0.variant=ahc_sum",),
    "random-groups": ("stages.0.groups=random",),
    "inverted-groups": ("stages.0.groups=inverted",),
    "decompose-only": ("stages.0.variant=decompose_only",),
    "prune-only": ("stages.0.variant=prune_only",),
    "three-means": ("stages.0.rule=three_means",),
    "summed-harms": ("stages.0.weigh=summed",),
    "summed-harms-random": ("stages.0.weigh=summed", "stages.0.groups=random"),
    "summed-harms-inverted": ("stages.0.weigh=summed", "stages.0.groups=inverted"),
    "tucker2": ("stages.0.families=[tucker2]",),
    "tucker2-random": ("stages.0.families=[tucker2]", "stages.0.groups=random"),
    "tucker2-inverted": ("stages.0.families=[tucker2]", "stages.0.groups=inverted"),
    "tucker2-decompose-only": (
        "stages.0.families=[tucker2]",
        "stages.0.variant=decompose_only",
    ),
    "not-whitened": ("stages.0.whiten=false",),
    "not-rebuilt": ("stages.0.rebuild=false",),
    "second-order": ("stages.0.estimator=second_order",),
    "first-order": ("stages.0.estimator=first_order",),
}
# Without recovery (batch norms recalibrated), and with it.
_ABLATION_EPOCHS = (0, 8)
# Held to the clock: fewer decompositions are on offer there.
_TIMED_ARMS = (
    "hmc",
    "random-groups",
    "inverted-groups",
    "nahc",
    "ahc",
    "decompose-only",
    "prune-only",
    "summed-harms",
)
# budget, epochs, length
_GOALS = {
    "resnet20": (("macs=0.45", 15, "usual"), ("macs=0.45", 40, "usual")),
    "resnet56": (
        ("macs=0.5", 10, "usual"),
        ("macs=0.5", 30, "long"),
        ("macs=0.28,params=0.25", 20, "usual"),
        ("macs=0.28,params=0.25", 60, "long"),
    ),
}
_AGAINST = {"resnet20": (0, 15), "resnet56": (0, 10)}
# What the rivals are offered: channels alone, every count, inside the residual blocks.
_LIKE_RIVALS = {"prune-only": ("stages.0.variant=prune_only", "round_to=1")}
_SHARES = ("macs=0.5", "macs=0.28")
# What NORTON leaves of ResNet-56, and in how many epochs.
_PUBLISHED = ("macs=0.29,params=0.25", 300)


def rows_of(network: str) -> Iterator[Row]:
    """Yield the rows of one network."""
    if network in ("resnet20", "digits_resnet"):
        for budget in ("macs=0.4", "macs=0.25"):
            for epochs, (arm, settings) in product(_ABLATION_EPOCHS, _ARMS.items()):
                yield Row("ablation", network, arm, epochs, budget, settings)
        for epochs, arm in product(_ABLATION_EPOCHS, _TIMED_ARMS):
            yield Row("never-slower", network, arm, epochs, "macs=0.4", _ARMS[arm])
    for budget, epochs, length in _GOALS.get(network, ()):
        yield Row("goal", network, "hmc", epochs, budget, length=length)
        yield from _rivals(network, budget, epochs, length)
    yield from _against(network)
    if network == "resnet56":
        budget, epochs = _PUBLISHED
        yield Row("published", network, "hmc", epochs, budget, length="long")


def _against(network: str) -> Iterator[Row]:
    for budget in _SHARES:
        for epochs in _AGAINST.get(network, ()):
            yield Row("against", network, "hmc", epochs, budget)
            for arm, settings in _LIKE_RIVALS.items():
                yield Row("against", network, arm, epochs, budget, settings)
            if (budget, epochs, "usual") not in _GOALS[network]:
                yield from _rivals(network, budget, epochs, "usual")


def _rivals(network: str, budget: str, epochs: int, length: str) -> Iterator[Row]:
    for rival in RIVALS:
        yield Row("rival", network, rival, epochs, budget, length=length)
