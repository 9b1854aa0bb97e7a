"""Data sets of human attention: images with the fixations of people, from SALICON, OSIE or CSV tables."""

from pathlib import Path

from common.errors import UserError
from common.fixations.data import FixatedImage, FixationData
from common.fixations.exclusions import exclusion_notes
from common.fixations.split import split_images

__all__ = ["FORMATS", "FixatedImage", "FixationData", "exclusion_notes", "open_fixations", "split_images"]

FORMATS = {
    "salicon": "SALICON, release of 2015 (annotations/*.json) or 2017 (fixations/**/*.mat)",
    "osie-eye": "OSIE, eye tracking (eye/fixations.mat)",
    "osie-mouse": "OSIE, mouse tracking (mouse_amt/*.mat)",
    "csv": "images/ and fixations.csv with the columns image, subject, x, y and optionally duration_ms",
}


def open_fixations(location: str, flag: str = "--data") -> FixationData:
    """Open the data set `FORMAT:FOLDER`, or one split of it, `salicon:FOLDER:SPLIT`; pixels are read on request only.

    Faulty fixations and images are excluded and counted (`FixationData.excluded`). Raises UserError for an unknown
    format, a folder without data in this format, and files that cannot be parsed; messages about the location name
    `flag` as the setting to correct.
    """
    data_format, _, remainder = location.partition(":")
    if data_format not in FORMATS or not remainder:
        known = "; ".join(f"{name}:FOLDER, {meaning}" for name, meaning in FORMATS.items())
        raise UserError(f"{flag} {location}: expected FORMAT:FOLDER, one of {known}")
    folder, split = _folder_and_split(remainder)
    if not folder.is_dir():
        raise UserError(f"{flag} {location}: there is no folder {folder}")
    if split and data_format != "salicon":
        raise UserError(f"{flag} {location}: the format {data_format} has no splits; remove :{split}")
    # The readers are imported on demand: scipy and the listing of images take half a second to import.
    if data_format == "salicon":
        from common.fixations.salicon import read_salicon

        return read_salicon(folder, split)
    if data_format == "csv":
        from common.fixations.csv_folder import read_csv

        return read_csv(folder)
    from common.fixations.osie import read_osie_eye, read_osie_mouse

    return read_osie_eye(folder) if data_format == "osie-eye" else read_osie_mouse(folder)


def _folder_and_split(text: str) -> tuple[Path, str]:
    """Separate `FOLDER:SPLIT` at its last colon, unless the whole text is an existing folder."""
    before, colon, after = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Path(text), ""
    return Path(before), after
