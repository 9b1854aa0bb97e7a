"""Parser of the annotations of SALICON's release of 2015: COCO's JSON with a trajectory for each image and worker."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, describe_error


@dataclass
class Recording:
    """The mouse trajectories on one image.

    `workers[i]` is the id of the worker who made the trajectory `samples[i]`, float32 [n, 2]: row and column, 1-based.
    """

    file_name: str
    frame: tuple[float, float]  # width, height
    workers: list[int] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)


def read_annotations(path: Path) -> list[Recording]:
    """Return the recordings of all images in a file `fixations_<split>.json`, including images without trajectories.

    Raises UserError if the file cannot be read or its content is not as expected.
    """
    content = _load_json(path)
    recordings: dict[float, Recording] = {}
    for index, image in enumerate(_get_entries(content, "images", path)):
        where = f"{path}: images[{index}]"
        frame = (_get_number(image, "width", where), _get_number(image, "height", where))
        if not min(frame) > 0:
            raise UserError(f"{where}: expected a width and a height, found {frame[0]} x {frame[1]}")
        recordings[_get_number(image, "id", where)] = Recording(str(_get_value(image, "file_name", where)), frame)
    for index, annotation in enumerate(_get_entries(content, "annotations", path)):
        where = f"{path}: annotations[{index}]"
        image_id = _get_number(annotation, "image_id", where)
        if image_id not in recordings:
            raise UserError(f"{where}: image_id: {image_id} is not the id of an image")
        samples = _get_value(annotation, "fixations", where)
        if isinstance(samples, np.ndarray) and not samples.size:
            samples = samples.reshape(0, 2)
        if not isinstance(samples, np.ndarray) or samples.ndim != 2 or samples.shape[1] != 2:
            raise UserError(f"{where}: fixations: expected a list of [row, column]")
        recordings[image_id].workers.append(int(_get_number(annotation, "worker_id", where)))
        recordings[image_id].samples.append(samples)
    return list(recordings.values())


def _load_json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=_compact_trajectory)
    except (OSError, ValueError) as error:  # ValueError: the content is not JSON or not UTF-8
        raise UserError(f"{path}: cannot be read as JSON: {describe_error(error)}") from None


def _compact_trajectory(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a trajectory to an array as soon as it is parsed, because all of them as lists would take 8 GB."""
    if "fixations" in record:
        with contextlib.suppress(TypeError, ValueError):
            record["fixations"] = np.array(record["fixations"], np.float32)
    return record


def _get_entries(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: expected a list of {name}, as in SALICON's release of 2015")
    return entries


def _get_value(entry: dict[str, Any], name: str, where: str) -> Any:
    if entry.get(name) is None:
        raise UserError(f"{where}: {name} is missing")
    return entry[name]


def _get_number(entry: dict[str, Any], name: str, where: str) -> float:
    value = _get_value(entry, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {name}: expected a number, found {value!r}")
    return value
