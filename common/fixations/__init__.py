"""Human attention by name: photographs with the places that people looked at, from SALICON, OSIE or anyone's tables."""

from pathlib import Path

from common.errors import UserError
from common.fixations.data import FixatedImage, FixationData, exclusion_notes
from common.fixations.split import split_images

__all__ = ["FORMATS", "FixatedImage", "FixationData", "exclusion_notes", "open_fixations", "split_images"]

FORMATS = {
    "salicon": "SALICON's release of 2015 (annotations/*.json) or 2017 (fixations/**/*.mat)",
    "osie-eye": "OSIE's eye tracking (eye/fixations.mat)",
    "osie-mouse": "OSIE's mouse tracking (mouse_amt/*.mat)",
    "csv": "images/ and fixations.csv with image, subject, x, y and perhaps duration_ms",
}


def open_fixations(location: str, flag: str = "--data") -> FixationData:
    """The data set `FORMAT:FOLDER`, or one split of it, `salicon:FOLDER:SPLIT`. Pixels stay on disk until asked for.

    Raises UserError, which names `flag`, for an unknown format, a folder that does not hold it, and files that cannot
    be understood; what is wrong with single fixations and images is left out and counted (`FixationData.left_out`).
    """
    form, _, rest = location.partition(":")
    if form not in FORMATS or not rest:
        known = "; ".join(f"{name}:FOLDER, {meaning}" for name, meaning in FORMATS.items())
        raise UserError(f"{flag} {location}: expected FORMAT:FOLDER, one of {known}")
    folder, wanted = _folder_and_split(rest)
    if not folder.is_dir():
        raise UserError(f"{flag} {location}: there is no folder {folder}")
    if wanted and form != "salicon":
        raise UserError(f"{flag} {location}: {form} has no splits; leave out :{wanted}")
    # imported here: scipy's reader of MATLAB files, and what lists images, take half a second
    if form == "salicon":
        from common.fixations.salicon import read_salicon

        return read_salicon(folder, wanted)
    if form == "csv":
        from common.fixations.csv_folder import read_csv

        return read_csv(folder)
    from common.fixations.osie import read_osie_eye, read_osie_mouse

    return read_osie_eye(folder) if form == "osie-eye" else read_osie_mouse(folder)


def _folder_and_split(text: str) -> tuple[Path, str]:
    """A split follows the last colon, unless the colon belongs to the folder's name."""
    before, colon, after = text.rpartition(":")
    if not colon or Path(text).is_dir():
        return Path(text), ""
    return Path(before), after
