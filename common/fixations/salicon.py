"""SALICON (Jiang et al., CVPR 2015): the mouse tracking of a crowd on COCO's photographs, in either of its releases.

2015: `annotations/fixations_<split>.json` and `images/<split>/*.jpg`. Trajectories, (row, column), 1-based.
2017: `fixations/<split>/*.mat`, `images/<split>/*.jpg` (or `images/*.jpg`) and, if there, `maps/<split>/*.png`.
Fixations found in the trajectories, (x, y), 1-based. Coordinates are pixels of the frame that the release names.
"""

import re
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.fixations.collector import Collector, RawFixations, image_files
from common.fixations.data import FixationData
from common.fixations.matlab import field, numbers, read_mat, records
from common.fixations.salicon_json import Recording, read_annotations

SPLIT = re.compile(r"(?:^|_)(train|val|test)")


def read_salicon(folder: Path, split: str = "") -> FixationData:
    """One split, or all that are there; each image knows its own. Raises UserError.

    Subjects are SALICON's worker ids in the release of 2015; that of 2017 tells them apart in one image only.
    """
    annotations = sorted(folder.glob("annotations/fixations_*.json"))
    gazes = sorted(folder.glob("fixations/**/*.mat"))
    if annotations and gazes:
        raise UserError(
            f"{folder}: both releases of SALICON are here; put annotations/ and fixations/ into folders apart"
        )
    if annotations:
        return _release_2015(folder, _of_split(annotations, split, folder))
    if gazes:
        return _release_2017(folder, _of_split(gazes, split, folder))
    raise UserError(
        f"{folder}: expected SALICON: annotations/fixations_*.json and images/ (2015), "
        "or fixations/ with .mat files and images/ (2017)"
    )


def _release_2015(folder: Path, annotations: list[Path]) -> FixationData:
    files = _images(folder, annotations)
    by_file_name = {path.name: name for name, path in files.items()}
    collector = Collector(folder, files)
    for path in annotations:
        for recording in read_annotations(path):
            name = f"{path.stem.removeprefix('fixations_')}/{recording.file_name}"
            if name not in files:
                name = by_file_name.get(recording.file_name, recording.file_name)
            collector.add(name, _trajectories(recording), recording.frame, trajectory=True, split=_split(path))
    return collector.finish()


def _release_2017(folder: Path, gazes: list[Path]) -> FixationData:
    files = _images(folder, gazes)
    by_stem = {path.stem: name for name, path in files.items()}
    maps = {path.stem: path for path in folder.glob("maps/**/*.png")}
    collector = Collector(folder, files)
    for path in gazes:
        looks, frame = _gaze(path)
        name = by_stem.get(path.stem, path.stem)
        collector.add(name, looks, frame, split=_split(path), map_path=maps.get(path.stem))
    return collector.finish()


def _images(folder: Path, recorded: list[Path]) -> dict[str, Path]:
    """The images of the splits that these files are of; those whose split is not told, too."""
    splits = {_split(path) for path in recorded} | {""}
    return {name: path for name, path in image_files(folder / "images").items() if _split(path) in splits}


def _trajectories(recording: Recording) -> RawFixations:
    rows_and_columns = np.concatenate([np.zeros((0, 2)), *recording.samples])
    workers = np.repeat(np.array(recording.workers, np.int64), [len(samples) for samples in recording.samples])
    return RawFixations(rows_and_columns[:, ::-1] - 0.5, workers)


def _gaze(path: Path) -> tuple[RawFixations, tuple[float, float]]:
    """The fixations of a .mat file, and the width and height that they were recorded in."""
    content = read_mat(path)
    resolution = numbers(content, "resolution", str(path))
    if len(resolution) != 2 or not (resolution > 0).all():
        raise UserError(f"{path}: resolution: expected height and width, found {resolution.tolist()}")
    gaze = records(field(content, "gaze", str(path)), f"{path}: gaze")
    seen = [
        numbers(subject, "fixations", f"{path}: gaze {number + 1}", columns=2) if subject else np.zeros((0, 2))
        for number, subject in enumerate(gaze)
    ]
    subjects = np.repeat(np.arange(len(seen)), [len(fixations) for fixations in seen])
    height, width = resolution
    return RawFixations(np.concatenate([np.zeros((0, 2)), *seen]) - 0.5, subjects), (float(width), float(height))


def _split(path: Path) -> str:
    """train, val or test, as the file's folder or COCO's file name says; else nothing."""
    named = SPLIT.search(path.parent.name) or SPLIT.search(path.stem)
    return named[1] if named else ""


def _of_split(paths: list[Path], wanted: str, folder: Path) -> list[Path]:
    found = [path for path in paths if not wanted or _split(path) == wanted]
    if not found:
        there = ", ".join(sorted({_split(path) for path in paths}))
        raise UserError(f"{folder}: there is no split {wanted}; found {there or 'files that name none'}")
    return found
