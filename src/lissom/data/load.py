"""Built-in data sets by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from lissom.data.cifar10 import load_cifar10
from lissom.data.digits import load_digits
from lissom.data.fashion_mnist import load_fashion_mnist
from lissom.data.image_folder import load_image_folder
from lissom.data.options import DataOptions, LoadedData
from lissom.errors import DataError

DATA_SETS: Mapping[str, Callable[[Path | None, DataOptions], LoadedData]] = MappingProxyType(
    {
        "digits": load_digits,
        "fashion_mnist": load_fashion_mnist,
        "cifar10": load_cifar10,
        "image_folder": load_image_folder,
    }
)


def load_data(
    name: str, data_dir: str | Path | None = None, options: DataOptions | None = None
) -> LoadedData:
    """Load a built-in data set.

    Args:
        name: One of ``DATA_SETS``.
        data_dir: Where its files lie; digits needs none.
        options: Defaults to ``DataOptions()``.

    Raises:
        DataError: Unknown name; files missing, empty or unreadable.
    """
    if name not in DATA_SETS:
        near = difflib.get_close_matches(name, DATA_SETS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"no built-in data set {name!r}{hint}; there are {', '.join(DATA_SETS)}")
    folder = Path(data_dir) if data_dir is not None else None
    return DATA_SETS[name](folder, options or DataOptions())
