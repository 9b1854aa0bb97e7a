"""OSIE (Xu et al., Journal of Vision 2014): eye tracking, and the mouse tracking of a crowd, on 700 photographs.

The layout is that of github.com/NUS-VIP/predicting-human-gaze-beyond-pixels; its folder `data` may be named, or the one
that holds it. Coordinates are MATLAB's, 1-based: the first pixel's centre is (1, 1).
"""

from pathlib import Path

import numpy as np

from common.errors import UserError
from common.fixations.collector import Collector, RawFixations, image_files
from common.fixations.data import FixationData
from common.fixations.matlab import MatlabRecord, field, numbers, read_mat, records, same_length


def read_osie_eye(folder: Path) -> FixationData:
    """`stimuli/*.jpg` and `eye/fixations.mat`; subjects are numbered as in the file. Raises UserError."""
    data = _data(folder, "eye/fixations.mat")
    path = data / "eye" / "fixations.mat"
    collector = Collector(folder, image_files(data / "stimuli"))
    for index, record in enumerate(records(field(read_mat(path), "fixations", str(path)), f"{path}: fixations")):
        name = str(field(record, "img", f"{path}: record {index + 1}"))
        collector.add(name, _eye_looks(record, f"{path}: {name}"))
    return collector.finish()


def read_osie_mouse(folder: Path) -> FixationData:
    """`stimuli/*.jpg` and `mouse_amt/*.mat`, of whose trajectories each subject's unique pixels are kept.

    Subjects have the files' numbers. Raises UserError.
    """
    data = _data(folder, "mouse_amt")
    files = image_files(data / "stimuli")
    by_stem = {Path(name).stem: name for name in files}
    collector = Collector(folder, files)
    for path in sorted((data / "mouse_amt").glob("*.mat")):
        found = records(field(read_mat(path), "fixations", str(path)), f"{path}: fixations")
        if len(found) != 1:
            raise UserError(f"{path}: fixations: expected one struct with subj and coord, found {len(found)}")
        looks = _mouse_looks(found[0], f"{path}: fixations")
        collector.add(by_stem.get(path.stem, path.stem), looks, trajectory=True)
    return collector.finish()


def _data(folder: Path, needed: str) -> Path:
    data = folder / "data" if (folder / "data").is_dir() else folder
    for name in ("stimuli", needed):
        if not (data / name).exists():
            raise UserError(f"{folder}: expected OSIE's stimuli/*.jpg and {needed}; there is no {data / name}")
    return data


def _eye_looks(record: MatlabRecord, where: str) -> RawFixations:
    positions, subjects, durations = [np.zeros((0, 2))], [np.zeros(0)], [np.zeros(0)]
    for number, subject in enumerate(records(field(record, "subjects", where), f"{where}: subjects")):
        if not subject:  # did not see this image
            continue
        there = f"{where}: subject {number + 1}"
        columns = {name: numbers(subject, name, there) for name in ("fix_x", "fix_y", "fix_duration")}
        same_length(columns, there)
        positions.append(np.column_stack([columns["fix_x"], columns["fix_y"]]) - 0.5)
        subjects.append(np.full(len(positions[-1]), number))
        durations.append(columns["fix_duration"])
    return RawFixations(np.concatenate(positions), np.concatenate(subjects), np.concatenate(durations))


def _mouse_looks(record: MatlabRecord, where: str) -> RawFixations:
    rows_and_columns, subjects = numbers(record, "coord", where, columns=2), numbers(record, "subj", where)
    same_length({"coord": rows_and_columns, "subj": subjects}, where)
    if not np.isfinite(subjects).all():
        raise UserError(f"{where}: subj: expected numbers, found NaN")
    return RawFixations(rows_and_columns[:, ::-1] - 0.5, subjects)
