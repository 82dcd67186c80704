"""compress(): a trained network in, a smaller one out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.extension import Method
from lissom.methods.catalog import method_called
from lissom.pipeline.checks import check_epochs
from lissom.pipeline.iterations import Iterated, iterated
from lissom.pipeline.job import Job
from lissom.pipeline.result import Result
from lissom.pipeline.settings import Settings
from lissom.pipeline.workspace import Workspace
from lissom.plan.budget import Budget
from lissom.task import Classification, Data, Task

Asked = str | Method | Iterated


def compress(  # noqa: PLR0913  (the public face: network, data, task, method, budget, settings)
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    data: Data,
    task: Task | None = None,
    method: Asked | Sequence[Asked] = "hmc",
    budget: str | Budget,
    settings: Settings | None = None,
) -> Result:
    """Compress a trained network.

    Args:
        model: The network; it is not changed.
        example_inputs: One batch of inputs: only their shapes matter.
        data: What it is measured and recovered on.
        task: Loss, metric, inputs; classification by default.
        method: Name of a method, a method with its settings, or several, applied in turn: those
            that share a limit then go the same fraction of the way each. ``Iterated`` lets one go
            its way in several iterations.
        budget: Such as ``macs=0.5``, ``macs=0.5,params=0.4``, ``size=25x`` (bytes of the file) or
            ``max_drop=1.0`` (points of the metric); which of these, the method says.
        settings: Everything else.

    Returns:
        The new network, the plan and the report.

    Raises:
        BudgetError: The budget can't be met; said before any work.
        ModelError: The network can't be read, or holds NaN.
        DataError: A set is empty or gives no (inputs, targets).
        RecipeError: There is no such method, layer or device, or the teacher does not fit.
    """
    methods = _methods(method)
    wanted = settings or Settings()
    check_epochs(wanted.recover.epochs, [iterated(one).method for one in methods])
    limits = budget if isinstance(budget, Budget) else Budget.parse(budget)
    job = Job.start(model, example_inputs, data, task or Classification(), wanted)
    with folder_or_temporary(job.settings.workspace) as folder:
        return job.run(methods, limits, Workspace(folder))


def _methods(given: Asked | Sequence[Asked]) -> tuple[Method | Iterated, ...]:
    several = given if isinstance(given, (tuple, list)) else (cast("Asked", given),)
    if not several:
        raise RecipeError("method: none is given; expected a name such as hmc, or a method")
    return tuple(method_called(one) if isinstance(one, str) else one for one in several)


@contextmanager
def folder_or_temporary(given: Path | None) -> Iterator[Path]:
    """Give the folder, or a temporary one that is gone when the block ends."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="lissom-") as folder:
        yield Path(folder)
