"""Data sets of human fixations to evaluate a teacher on, completely or only on images listed in a file."""

from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from common.fixations import FixatedImage, FixationData, open_fixations
from common.text import join_names

MAX_UNKNOWN_NAMES = 3


def open_data(locations: Iterable[str]) -> dict[str, FixationData]:
    """Open data sets, each FORMAT:FOLDER, and return them by location. Raises UserError."""
    data: dict[str, FixationData] = {}
    for location in locations:
        if location in data:
            raise UserError(f"--data {location} is given twice; expected each data set once")
        data[location] = open_fixations(location)
    return data


def select_images(data: dict[str, FixationData], names_file: Path | None) -> dict[str, list[FixatedImage]]:
    """Return the images to score by location: all, or only those listed in the names file.

    Raises UserError if the file lists an image of no data set, or no image of one of them.
    """
    if names_file is None:
        return {location: data_set.images for location, data_set in data.items()}
    names = read_names(names_file)
    known = {image.name for data_set in data.values() for image in data_set.images}
    if unknown := sorted(names - known):
        raise UserError(
            f"--names {names_file}: expected names of images with fixations in {', '.join(data)}; {len(unknown):,} of "
            f"{len(names):,} names are not: {join_names(unknown, MAX_UNKNOWN_NAMES)}"
        )
    selected = {
        location: [image for image in data_set.images if image.name in names] for location, data_set in data.items()
    }
    for location, images in selected.items():
        if not images:
            raise UserError(f"--names {names_file}: lists no image of --data {location}; omit one of the two")
    return selected


def read_names(path: Path) -> set[str]:
    """Read image names, one per line. Raises UserError."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            names = {line.rstrip("\n") for line in file if line.strip()}
    except OSError as error:
        raise UserError(f"--names {path}: cannot be read: {error.strerror}") from None
    if not names:
        raise UserError(f"--names {path}: expected image names, one per line, found none")
    return names
