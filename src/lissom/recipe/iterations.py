"""What may be asked of a stage that goes its way in several iterations."""

from __future__ import annotations

from lissom.errors import RecipeError

_SHARE = 10  # of the epochs of recovery: a brief one has a tenth


def check_iterations(iterations: int, iteration_epochs: int | None) -> None:
    """Refuse numbers that mean nothing.

    Args:
        iterations: In how many the way to the budget is gone.
        iteration_epochs: Of the recovery after each but the last; None: not asked.

    Raises:
        RecipeError: Fewer than one iteration, fewer than no epochs, or epochs between iterations
            where there is only one.
    """
    if iterations < 1:
        raise RecipeError(f"iterations={iterations}: expected 1 (the whole way at once) or more")
    if iteration_epochs is None:
        return
    if iteration_epochs < 0:
        raise RecipeError(
            f"iteration_epochs={iteration_epochs}: expected 0 (only batch norms are recalibrated) "
            "or more"
        )
    if iterations == 1:
        raise RecipeError(
            f"iteration_epochs={iteration_epochs}: they follow each iteration but the last, and "
            "there is only one; give iterations=2 or more, too, or drop it"
        )


def brief_epochs(iteration_epochs: int | None, epochs: int) -> int:
    """Give the epochs of a recovery between two iterations: as asked, or a tenth, rounded up.

    Args:
        iteration_epochs: As asked; None: by itself.
        epochs: Of the whole recovery.
    """
    return -(-epochs // _SHARE) if iteration_epochs is None else iteration_epochs
