"""Read pickles of arrays and lists without running what else they may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar  # what pickles of arrays call
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

from lissom.errors import DataError


def _encoded(text: str, encoding: str) -> bytes:
    """Stand in for ``codecs.encode``, by which protocol 2 spells bytes."""
    if encoding != "latin1":
        raise DataError(f"it asks for the encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encoded,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "scalar"): scalar,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"it asks for {module}.{name}, which a data file has no need of"
            ) from None


def read_pickle(path: Path) -> Any:
    """Read numbers, strings, lists, dicts and numpy arrays.

    Raises:
        DataError: Missing, truncated, or the file asks for anything else: it could run any code.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: refused: {error}; use the original file") from None
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise DataError(
            f"{path}: truncated or damaged ({error}); copy or download it again"
        ) from error
