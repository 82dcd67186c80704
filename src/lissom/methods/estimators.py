"""Who tells HMC the harm of a candidate."""

from __future__ import annotations

from lissom.extension import ModelView
from lissom.methods.weights import plain_layers
from lissom.sensitivity.candidate import Estimator
from lissom.sensitivity.curvature import curvatures, has_known_curvature
from lissom.sensitivity.estimate import FirstOrder, SecondOrder
from lissom.sensitivity.measure import Measured
from lissom.sensitivity.statistics import loss_gradients
from lissom.train.processes import Processes

ESTIMATORS = ("measured", "second_order", "first_order")


def estimator_of(name: str, view: ModelView, images: int, processes: Processes) -> Estimator:
    """Give an estimator; one that needs statistics takes them now.

    Args:
        name: One of ``ESTIMATORS``.
        view: Network and data.
        images: Calibration images to judge on.
        processes: All that measure together.
    """
    data, task = view.data.calibration, view.task
    measured = Measured(view.model, data, task, images, view.cache, processes)
    if name == "second_order":
        layers = plain_layers(view.model, view.graph)
        found = curvatures(view.model, layers, data, task, images)
        return SecondOrder(view.model, found, images, measured)
    if name == "first_order":
        return FirstOrder(
            view.model, loss_gradients(view.model, data, task, images), images, measured
        )
    return measured


def compared(name: str, view: ModelView, images: int, processes: Processes) -> dict[str, Estimator]:
    """Give what is cheap to set beside an estimator: the second order beside the measurement.

    Nothing where the curvature of the task's distance is not known: its stand-in needs targets.
    """
    if name != "measured" or not has_known_curvature(view.task):
        return {}
    return {"second_order": estimator_of("second_order", view, images, processes)}
