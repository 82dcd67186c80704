"""The exception tree.

LissomError
├── ModelError          the network can't be read: NaN weights, a branch that can't be captured
├── UnsupportedLayer    a method does not do this layer: names layer, attribute and value
├── WeightsError        a weights file is missing, truncated, or does not fit the network
├── DataError           a data folder is missing, empty, or holds something unreadable
├── RecipeError         a recipe or an option: unknown key, wrong type, out of range
├── BudgetError         a budget that means nothing, or that nothing on the menu meets
├── PlanError           a plan: format number, unknown kind, a tensor that does not match
├── PackedFileError     a packed file that is cut short or damaged
├── MeasureError        the machine is too busy to be measured, or what was measured is not kept
└── ExportError         the target can't express it, or the file computes something else

Every message names the layer, file or field, says what was given, what was expected, what to do.
Programming mistakes stay TypeError and ValueError.
"""


class LissomError(Exception):
    """Base of everything that lissom raises on purpose."""


class ModelError(LissomError):
    """The network can't be read."""


class UnsupportedLayer(LissomError):  # noqa: N818  (the tree in the docstring is the public spelling)
    """A method does not do this layer."""


class WeightsError(LissomError):
    """A weights file is missing, damaged or does not fit."""


class DataError(LissomError):
    """A data set is missing, empty or unreadable."""


class RecipeError(LissomError):
    """A recipe or an option can't be understood."""


class BudgetError(LissomError):
    """A budget is meaningless, or can't be met."""


class PlanError(LissomError):
    """A plan can't be read or does not fit the network."""


class PackedFileError(LissomError):
    """A packed file is damaged."""


class MeasureError(LissomError):
    """Nothing could be measured that means anything."""


class ExportError(LissomError):
    """An export failed, or its file computes something else."""
