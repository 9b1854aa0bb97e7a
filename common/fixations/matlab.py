"""MATLAB files as plain dicts, lists and arrays, with errors that name the file and the field."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from common.errors import UserError, describe_error

MatlabRecord = dict[str, Any]


def read_mat(path: Path) -> MatlabRecord:
    """Return the variables of a .mat file: structs become dicts, cell and struct arrays become lists.

    All arrays are squeezed, so that records nested in 1 x 1 cells, n x 1 or 1 x n arrays give the same result. Raises
    UserError if the file cannot be read.
    """
    try:
        return scipy.io.loadmat(path, simplify_cells=True)
    except NotImplementedError:  # MATLAB 7.3 files are HDF5, which scipy does not read
        raise UserError(f"{path}: a MATLAB 7.3 file; save it again with -v7") from None
    except Exception as error:  # scipy raises exceptions of many types for damaged files
        raise UserError(f"{path}: cannot be read as a MATLAB file: {describe_error(error)}") from None


def get_field(record: MatlabRecord, name: str, where: str) -> Any:
    """Return a field or variable. Raises UserError if it is missing; `where` begins the message, here and below."""
    if name not in record:
        fields = ", ".join(sorted(key for key in record if not key.startswith("__"))) or "nothing"
        raise UserError(f"{where}: expected a field {name}, found {fields}")
    return record[name]


def as_records(value: Any, where: str) -> list[MatlabRecord]:
    """Return a struct or an array of structs as a list; empty elements become empty dicts.

    Raises UserError if the value or one of its elements is something else.
    """
    elements = list(value) if isinstance(value, list | np.ndarray) else [value]
    records = [{} if isinstance(element, np.ndarray) and not element.size else element for element in elements]
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{where}: expected structs")
    return records


def get_numbers(record: MatlabRecord, name: str, where: str, columns: int = 1) -> np.ndarray:
    """Return the numbers in a field as float64 [n], or [n, columns] if `columns` is above 1.

    Raises UserError if the field is missing or holds something else.
    """
    value = np.asarray(get_field(record, name, where))
    if value.size == 0:
        value = np.zeros(0)
    if value.dtype.kind not in "buif" or (columns > 1 and value.size and value.shape[-1] != columns):
        raise UserError(f"{where}: {name}: expected numbers{f' in {columns} columns' if columns > 1 else ''}")
    return value.astype(np.float64).reshape((-1, columns) if columns > 1 else -1)


def check_same_length(fields: dict[str, np.ndarray], where: str) -> None:
    """Raise UserError unless these fields, given by name, have the same length."""
    if len({len(array) for array in fields.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in fields.items())
        raise UserError(f"{where}: expected fields of the same length, found {lengths}")
