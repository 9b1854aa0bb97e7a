"""Which images a teacher is scored on: data sets of human fixations, whole or only the images that a file names."""

from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from common.fixations import FixatedImage, FixationData, open_fixations
from common.text import join_names

NAMES_SHOWN = 3


def open_data(locations: Iterable[str]) -> dict[str, FixationData]:
    """The data sets by location. Raises UserError."""
    data: dict[str, FixationData] = {}
    for location in locations:
        if location in data:
            raise UserError(f"--data {location} is given twice; expected each data set once")
        data[location] = open_fixations(location)
    return data


def select_images(data: dict[str, FixationData], names_file: Path | None) -> dict[str, list[FixatedImage]]:
    """The images of each data set, by location; only those named in the file where there is one.

    Raises UserError for a name that no data set knows, and for a data set of which nothing is named.
    """
    if names_file is None:
        return {location: found.images for location, found in data.items()}
    names = read_names(names_file)
    known = {image.name for found in data.values() for image in found.images}
    if unknown := sorted(names - known):
        raise UserError(
            f"--names {names_file}: {len(unknown):,} of {len(names):,} names are no image with fixations of "
            f"{', '.join(data)}: {join_names(unknown, NAMES_SHOWN)}"
        )
    selected = {location: [image for image in found.images if image.name in names] for location, found in data.items()}
    for location, images in selected.items():
        if not images:
            raise UserError(f"--names {names_file}: names no image of --data {location}; leave one of the two out")
    return selected


def read_names(path: Path) -> set[str]:
    """Image names, one a line. Raises UserError."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            names = {line.rstrip("\n") for line in file if line.strip()}
    except OSError as error:
        raise UserError(f"--names {path}: cannot be read: {error.strerror}") from None
    if not names:
        raise UserError(f"--names {path}: expected names of images, one a line, found none")
    return names
