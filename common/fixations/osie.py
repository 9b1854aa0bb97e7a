"""Reader of OSIE (Xu et al., Journal of Vision 2014): eye tracking and crowdsourced mouse tracking on 700 photographs.

The layout is that of github.com/NUS-VIP/predicting-human-gaze-beyond-pixels; the location may be its folder `data` or
the folder that contains `data`. Coordinates are MATLAB's, 1-based: the center of the first pixel is (1, 1).
"""

from pathlib import Path

import numpy as np

from common.errors import UserError
from common.fixations.collector import Collector, RawFixations, list_image_files
from common.fixations.data import FixationData
from common.fixations.matlab import MatlabRecord, as_records, check_same_length, get_field, get_numbers, read_mat


def read_osie_eye(folder: Path) -> FixationData:
    """Read the eye tracking: `stimuli/*.jpg` and `eye/fixations.mat`; subjects are numbered as in the file.

    Raises UserError if files are missing or cannot be parsed.
    """
    data = _data_folder(folder, "eye/fixations.mat")
    path = data / "eye" / "fixations.mat"
    collector = Collector(folder, list_image_files(data / "stimuli"))
    records = as_records(get_field(read_mat(path), "fixations", str(path)), f"{path}: fixations")
    for index, record in enumerate(records):
        name = str(get_field(record, "img", f"{path}: record {index + 1}"))
        collector.add(name, _eye_fixations(record, f"{path}: {name}"))
    return collector.finish()


def read_osie_mouse(folder: Path) -> FixationData:
    """Read the mouse tracking: `stimuli/*.jpg` and `mouse_amt/*.mat`; the fixations are each subject's distinct pixels.

    Subjects have the numbers that the files give them. Raises UserError if files are missing or cannot be parsed.
    """
    data = _data_folder(folder, "mouse_amt")
    files = list_image_files(data / "stimuli")
    by_stem = {Path(name).stem: name for name in files}
    collector = Collector(folder, files)
    for path in sorted((data / "mouse_amt").glob("*.mat")):
        records = as_records(get_field(read_mat(path), "fixations", str(path)), f"{path}: fixations")
        if len(records) != 1:
            raise UserError(f"{path}: fixations: expected one struct with subj and coord, found {len(records)}")
        samples = _mouse_samples(records[0], f"{path}: fixations")
        collector.add(by_stem.get(path.stem, path.stem), samples, trajectory=True)
    return collector.finish()


def _data_folder(folder: Path, needed: str) -> Path:
    data = folder / "data" if (folder / "data").is_dir() else folder
    for name in ("stimuli", needed):
        if not (data / name).exists():
            raise UserError(f"{folder}: expected OSIE's stimuli/*.jpg and {needed}; there is no {data / name}")
    return data


def _eye_fixations(record: MatlabRecord, where: str) -> RawFixations:
    positions, subjects, durations = [np.zeros((0, 2))], [np.zeros(0)], [np.zeros(0)]
    for number, subject in enumerate(as_records(get_field(record, "subjects", where), f"{where}: subjects")):
        if not subject:  # this subject did not view the image
            continue
        subject_where = f"{where}: subject {number + 1}"
        columns = {name: get_numbers(subject, name, subject_where) for name in ("fix_x", "fix_y", "fix_duration")}
        check_same_length(columns, subject_where)
        positions.append(np.column_stack([columns["fix_x"], columns["fix_y"]]) - 0.5)
        subjects.append(np.full(len(positions[-1]), number))
        durations.append(columns["fix_duration"])
    return RawFixations(np.concatenate(positions), np.concatenate(subjects), np.concatenate(durations))


def _mouse_samples(record: MatlabRecord, where: str) -> RawFixations:
    rows_and_columns = get_numbers(record, "coord", where, columns=2)
    subjects = get_numbers(record, "subj", where)
    check_same_length({"coord": rows_and_columns, "subj": subjects}, where)
    if not np.isfinite(subjects).all():
        raise UserError(f"{where}: subj: expected numbers, found NaN")
    return RawFixations(rows_and_columns[:, ::-1] - 0.5, subjects)
