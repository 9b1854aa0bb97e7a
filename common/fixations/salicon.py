"""Reader of SALICON (Jiang et al., CVPR 2015), crowdsourced mouse tracking on COCO photographs, in both releases.

Release of 2015: `annotations/fixations_<split>.json` and `images/<split>/*.jpg`. It holds whole mouse trajectories as
(row, column), 1-based.
Release of 2017: `fixations/<split>/*.mat`, `images/<split>/*.jpg` (or `images/*.jpg`) and optionally
`maps/<split>/*.png`. It holds the fixations detected in the trajectories as (x, y), 1-based.
Coordinates are pixels of a frame whose size is part of the release.
"""

import re
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.fixations.collector import Collector, RawFixations, list_image_files
from common.fixations.data import FixationData
from common.fixations.matlab import as_records, get_field, get_numbers, read_mat
from common.fixations.salicon_json import Recording, read_annotations

SPLIT_PATTERN = re.compile(r"(?:^|_)(train|val|test)")


def read_salicon(folder: Path, split: str = "") -> FixationData:
    """Read one split or, by default, all splits that the folder holds; each image names its split.

    In the release of 2015, subjects have SALICON's worker ids. That of 2017 only numbers the subjects of each image, so
    the same number in two images does not mean the same person. Raises UserError if files are missing or cannot be
    parsed.
    """
    annotation_files = sorted(folder.glob("annotations/fixations_*.json"))
    gaze_files = sorted(folder.glob("fixations/**/*.mat"))
    if annotation_files and gaze_files:
        raise UserError(
            f"{folder}: expected one release of SALICON, found both; move annotations/ and fixations/ to two folders"
        )
    if annotation_files:
        return _read_release_2015(folder, _select_split(annotation_files, split, folder))
    if gaze_files:
        return _read_release_2017(folder, _select_split(gaze_files, split, folder))
    raise UserError(
        f"{folder}: expected SALICON: annotations/fixations_*.json and images/ (2015), "
        "or fixations/ with .mat files and images/ (2017)"
    )


def _read_release_2015(folder: Path, annotation_files: list[Path]) -> FixationData:
    files = _find_images(folder, annotation_files)
    by_file_name = {path.name: name for name, path in files.items()}
    collector = Collector(folder, files)
    for path in annotation_files:
        for recording in read_annotations(path):
            name = f"{path.stem.removeprefix('fixations_')}/{recording.file_name}"
            if name not in files:
                name = by_file_name.get(recording.file_name, recording.file_name)
            samples = _concat_trajectories(recording)
            collector.add(name, samples, recording.frame, trajectory=True, split=_find_split(path))
    return collector.finish()


def _read_release_2017(folder: Path, gaze_files: list[Path]) -> FixationData:
    files = _find_images(folder, gaze_files)
    by_stem = {path.stem: name for name, path in files.items()}
    maps = {path.stem: path for path in folder.glob("maps/**/*.png")}
    collector = Collector(folder, files)
    for path in gaze_files:
        fixations, frame = _read_gaze(path)
        name = by_stem.get(path.stem, path.stem)
        collector.add(name, fixations, frame, split=_find_split(path), map_path=maps.get(path.stem))
    return collector.finish()


def _find_images(folder: Path, recordings: list[Path]) -> dict[str, Path]:
    """Return the images of the splits of these recordings, and those whose split is unknown, by name."""
    splits = {_find_split(path) for path in recordings} | {""}
    return {name: path for name, path in list_image_files(folder / "images").items() if _find_split(path) in splits}


def _concat_trajectories(recording: Recording) -> RawFixations:
    rows_and_columns = np.concatenate([np.zeros((0, 2)), *recording.samples])
    workers = np.repeat(np.array(recording.workers, np.int64), [len(samples) for samples in recording.samples])
    return RawFixations(rows_and_columns[:, ::-1] - 0.5, workers)


def _read_gaze(path: Path) -> tuple[RawFixations, tuple[float, float]]:
    """Return the fixations in a .mat file, and the width and height of the frame that they refer to."""
    content = read_mat(path)
    resolution = get_numbers(content, "resolution", str(path))
    if len(resolution) != 2 or not (resolution > 0).all():
        raise UserError(f"{path}: resolution: expected height and width, found {resolution.tolist()}")
    gaze = as_records(get_field(content, "gaze", str(path)), f"{path}: gaze")
    by_subject = [
        get_numbers(subject, "fixations", f"{path}: gaze {number + 1}", columns=2) if subject else np.zeros((0, 2))
        for number, subject in enumerate(gaze)
    ]
    positions = np.concatenate([np.zeros((0, 2)), *by_subject]) - 0.5
    subjects = np.repeat(np.arange(len(by_subject)), [len(fixations) for fixations in by_subject])
    height, width = resolution
    return RawFixations(positions, subjects), (float(width), float(height))


def _find_split(path: Path) -> str:
    """Return the split (train, val or test) that a file's folder or COCO file name contains, or an empty string."""
    match = SPLIT_PATTERN.search(path.parent.name) or SPLIT_PATTERN.search(path.stem)
    return match[1] if match else ""


def _select_split(paths: list[Path], split: str, folder: Path) -> list[Path]:
    """Return the files of a split, or all if `split` is empty. Raises UserError if there are none."""
    selected = [path for path in paths if not split or _find_split(path) == split]
    if not selected:
        splits = ", ".join(sorted({_find_split(path) for path in paths}))
        raise UserError(f"{folder}: there is no split {split}; found {splits or 'only files that name no split'}")
    return selected
