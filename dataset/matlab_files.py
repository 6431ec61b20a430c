"""Annotations in MATLAB's files (.mat), read by the package scipy."""

import importlib
import os
from typing import Any

import numpy as np

from utils.errors import UserError


def read_matlab(path: str | os.PathLike) -> dict[str, Any]:
    """The variables of a .mat file by name: numbers and arrays, strings, lists (cells), dicts (structures).

    What has one element stands alone, without its list: `as_list`.

    Raises UserError when scipy is not installed, or the file is missing, damaged or of MATLAB 7.3.
    """
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError:
        raise UserError(f"{path} is a file of MATLAB, which the package scipy reads: pip install scipy") from None
    try:
        return scipy_io.loadmat(os.fspath(path), appendmat=False, simplify_cells=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except NotImplementedError:
        raise UserError(f"{path} is of MATLAB 7.3; save it again there with -v7") from None
    except Exception as error:  # broken files make the reader raise nearly any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a file of MATLAB: {reason}") from None


def as_list(value: Any) -> list[Any]:
    """The elements of a cell or an array of structures, also of one that has a single element."""
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return value if isinstance(value, list) else [value]
