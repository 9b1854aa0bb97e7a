"""Writer of small data sets in the layout of OSIE, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from tests.support.data.pictures import jpeg


def cells(values: list[Any]) -> np.ndarray:
    """Return an n x 1 cell array for `scipy.io.savemat`."""
    array = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        array[index, 0] = value
    return array


def subject(*fixations: tuple[float, float, int]) -> dict[str, np.ndarray]:
    """Return the struct of one subject's fixations: x and y in 1-based pixels, duration in milliseconds."""
    x, y, duration = np.array(fixations, np.float64).reshape(-1, 3).T
    return {"fix_x": x[None], "fix_y": y[None], "fix_duration": duration[None].astype(np.uint16)}


def write(
    root: Path,
    eye: dict[str, list[Any]] | None = None,
    mouse: dict[str, Any] | None = None,
    stimuli: Sequence[str] = ("1001.jpg", "1002.jpg"),
) -> Path:
    """Write the folders as published, with images of 80 x 60 pixels; return `root`.

    `eye` maps file names to subjects, `mouse` maps file names without extension to structs.
    """
    data = root / "data"
    for name in ("stimuli", "eye", "mouse_amt"):
        (data / name).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(stimuli):
        (data / "stimuli" / name).write_bytes(jpeg(80, 60, seed))
    if eye is not None:
        records = cells([{"img": name, "subjects": cells(subjects)} for name, subjects in eye.items()])
        scipy.io.savemat(data / "eye" / "fixations.mat", {"fixations": records})
    for stem, struct in (mouse or {}).items():
        scipy.io.savemat(data / "mouse_amt" / f"{stem}.mat", {"fixations": struct})
    return root
