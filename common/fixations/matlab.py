"""MATLAB files as plain dicts, lists and arrays, with errors that name the file and the field."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from common.errors import UserError, describe_error

MatlabRecord = dict[str, Any]


def read_mat(path: Path) -> MatlabRecord:
    """The variables of a .mat file: structs as dicts, cell and struct arrays as lists, all squeezed. Raises UserError.

    Squeezing is what makes files alike that nest the same records as 1 x 1 cells, n x 1 or 1 x n arrays.
    """
    try:
        return scipy.io.loadmat(path, simplify_cells=True)
    except NotImplementedError:  # scipy reads all but HDF5
        raise UserError(f"{path}: a MATLAB 7.3 file; save it again with -v7") from None
    except Exception as error:  # scipy raises many kinds on damaged files
        raise UserError(f"{path}: cannot be read as a MATLAB file: {describe_error(error)}") from None


def field(record: MatlabRecord, name: str, where: str) -> Any:
    """A field or variable. Raises UserError where it is missing."""
    if name not in record:
        there = ", ".join(sorted(key for key in record if not key.startswith("__"))) or "nothing"
        raise UserError(f"{where}: expected a field {name}, found {there}")
    return record[name]


def records(value: Any, where: str) -> list[MatlabRecord]:
    """A struct, or an array of them, as a list; elements that are empty become empty dicts. Raises UserError."""
    found = [value] if isinstance(value, dict) else list(value) if isinstance(value, list | np.ndarray) else [value]
    found = [{} if isinstance(each, np.ndarray) and not each.size else each for each in found]
    if not all(isinstance(each, dict) for each in found):
        raise UserError(f"{where}: expected structs")
    return found


def numbers(record: MatlabRecord, name: str, where: str, columns: int = 1) -> np.ndarray:
    """A field's numbers as float64: [n], or [n, columns] where there are several. Raises UserError."""
    value = np.asarray(field(record, name, where))
    if value.size == 0:
        value = np.zeros(0)
    if value.dtype.kind not in "buif" or (columns > 1 and value.size and value.shape[-1] != columns):
        raise UserError(f"{where}: {name}: expected numbers{f' in {columns} columns' if columns > 1 else ''}")
    return value.astype(np.float64).reshape((-1, columns) if columns > 1 else -1)


def same_length(arrays: dict[str, np.ndarray], where: str) -> None:
    """Raises UserError where these fields differ in length."""
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise UserError(f"{where}: expected as many of each, found {lengths}")
