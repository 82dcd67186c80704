"""The rows of edp.py: what is trained, for how long, with which settings."""

from __future__ import annotations

from collections.abc import Iterator

from row import Row

GROUPS = ("half", "budgets", "published", "scratch", "ablation", "rival")
LAMBDAS = (0.005, 0.01, 0.02, 0.04, 0.08)
# The published form aims at no budget, and the command line wants one: far above every network.
NO_BUDGET = "macs=1000G"
HALF = "macs=0.5"
RIVALS = (
    "magnitude",
    "magnitude-0.01",
    "magnitude-0.02",
    "group-norm",
    "group-norm-published",
)
_SCHEDULES = {"resnet20": (15, 30), "resnet56": (5, 15, 30), "digits_resnet": (5,)}
# Enough to tell ways of learning apart, with every one of them in an hour on two cores.
_BRIEF = {"resnet20": 5, "resnet56": 5, "digits_resnet": 5}
_LONG = {"resnet20": 200, "resnet56": 100, "digits_resnet": 10}
# The published peak learning rate, for trainings whose multipliers or start are the published ones.
_PUBLISHED_RATE = ("recover.learning_rate=0.1", "stages.0.rate_factor=1")
# Without trained weights there is nothing to imitate, nor to compare batch norm statistics with.
_FROM_SCRATCH = (
    "stages.0.start=scratch",
    "recover.distillation=0",
    "recover.recalibration_images=0",
    *_PUBLISHED_RATE,
)
# Penalties need time: what they press on vanishes only when everything has been pressed.
_SLOW_RAMP = (
    "stages.0.ramp_start=0.1",
    "stages.0.ramp_end=0.55",
    "stages.0.cut_at=0.6",
)
_ABLATIONS = {
    "as-built": (),
    "channel-split": ("stages.0.split=channel",),
    "spatial-ramp": ("stages.0.ramp_end=0.3", "stages.0.cut_at=0.35"),
    "columns-only": ("stages.0.learn=[columns]",),
    "rows-only": ("stages.0.learn=[rows]",),
    "never-merged": ("stages.0.merge=never",),
    "reweighted-lasso": ("stages.0.split=channel", "stages.0.penalty=energy", *_SLOW_RAMP),
    "group-lasso": ("stages.0.split=channel", "stages.0.penalty=norm", *_SLOW_RAMP),
}


def rows_of(network: str) -> Iterator[Row]:
    """Yield the rows of one network; of ResNet-56 the long ones are most, and none from scratch."""
    schedules, long = _SCHEDULES[network], _LONG[network]
    brief = _BRIEF[network]
    for epochs in schedules:
        yield from _against_rivals(network, epochs, "usual")
    length = "long" if network == "resnet56" else "usual"
    for share in (0.7, 0.35, 0.25):
        yield Row("budgets", network, f"macs{share}", brief, f"macs={share}", length=length)
    yield from _published(network, brief, length)
    if network == "resnet56":
        yield from _against_rivals(network, long, "long")
        return
    for epochs, length in (*((each, "usual") for each in schedules), (long, "long")):
        yield Row("scratch", network, "edp", epochs, HALF, settings=_FROM_SCRATCH, length=length)
    for name, settings in _ABLATIONS.items():
        yield Row("ablation", network, name, brief, HALF, settings=settings)


def _against_rivals(network: str, epochs: int, length: str) -> Iterator[Row]:
    yield Row("half", network, "edp", epochs, HALF, length=length)
    for rival in RIVALS:
        yield Row("rival", network, rival, epochs, HALF, length=length)


def _published(network: str, epochs: int, length: str) -> Iterator[Row]:
    for lam in LAMBDAS:
        settings = (
            "stages.0.mode=faithful",
            f"stages.0.lam_rank={lam}",
            f"stages.0.lam_channel={lam}",
            *_PUBLISHED_RATE,
        )
        yield Row("published", network, f"lambda{lam}", epochs, NO_BUDGET, settings, length)
