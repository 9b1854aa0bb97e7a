"""The annotations of SALICON's release of 2015: COCO's JSON with a trajectory for each image and worker."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, describe_error


@dataclass
class Recording:
    """An image and its trajectories: of each worker, samples [n, 2] of (row, column), 1-based."""

    file_name: str
    frame: tuple[float, float]  # width, height
    workers: list[int] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)


def read_annotations(path: Path) -> list[Recording]:
    """Every image of `fixations_<split>.json`, with trajectories or without. Raises UserError."""
    content = _parsed(path)
    recordings: dict[float, Recording] = {}
    for number, image in enumerate(_entries(content, "images", path)):
        where = f"{path}: images[{number}]"
        frame = (_number(image, "width", where), _number(image, "height", where))
        if not min(frame) > 0:
            raise UserError(f"{where}: expected a width and a height, found {frame[0]} x {frame[1]}")
        recordings[_number(image, "id", where)] = Recording(str(_value(image, "file_name", where)), frame)
    for number, annotation in enumerate(_entries(content, "annotations", path)):
        where = f"{path}: annotations[{number}]"
        image_id = _number(annotation, "image_id", where)
        if image_id not in recordings:
            raise UserError(f"{where}: image_id: {image_id} is not among the images")
        samples = _value(annotation, "fixations", where)
        if isinstance(samples, np.ndarray) and not samples.size:
            samples = samples.reshape(0, 2)
        if not isinstance(samples, np.ndarray) or samples.ndim != 2 or samples.shape[1] != 2:
            raise UserError(f"{where}: fixations: expected a list of [row, column]")
        recordings[image_id].workers.append(int(_number(annotation, "worker_id", where)))
        recordings[image_id].samples.append(samples)
    return list(recordings.values())


def _parsed(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=_compact)
    except (OSError, ValueError) as error:  # ValueError: not JSON, or not UTF-8
        raise UserError(f"{path}: cannot be read as JSON: {describe_error(error)}") from None


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Turn a trajectory into an array as soon as it is parsed: the whole release as lists would take 8 GB."""
    if "fixations" in record:
        with contextlib.suppress(TypeError, ValueError):
            record["fixations"] = np.array(record["fixations"], np.float32)
    return record


def _entries(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: expected a list of {name}, as in SALICON's release of 2015")
    return entries


def _value(entry: dict[str, Any], name: str, where: str) -> Any:
    if entry.get(name) is None:
        raise UserError(f"{where}: {name} is missing")
    return entry[name]


def _number(entry: dict[str, Any], name: str, where: str) -> float:
    value = _value(entry, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {name}: expected a number, found {value!r}")
    return value
