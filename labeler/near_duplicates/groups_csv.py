"""Groups of near-duplicates as a CSV file with a row per image."""

import csv
import io
from pathlib import Path

from common.errors import UserError
from common.storage.files import write_atomically
from labeler.near_duplicates.find import MatchedGroup, NearDuplicates

COLUMNS = ("group", "dataset", "shard", "key", "source", "wnid", "distance", "mirrored")


def write_groups(found: NearDuplicates, path: Path) -> None:
    """Write all groups, largest first.

    `distance` is the number of bits in which the hash of an image differs from the most similar one of its group, and
    `mirrored` states whether one of these two images is mirrored, 1 or 0. Raises UserError if the file cannot be
    written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, group in enumerate(found.groups, start=1):
        for sample, (distance, mirrored) in zip(group.samples, _find_closest(group), strict=True):
            names = [sample.row[column] for column in ("shard", "key", "source", "wnid")]
            writer.writerow([number, sample.dataset.location, *names, distance, int(mirrored)])
    try:
        write_atomically(path, buffer.getvalue().encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; expected the path of a writable file") from None


def _find_closest(group: MatchedGroup) -> list[tuple[int, bool]]:
    """Return for each sample the distance to the most similar one, and whether one of the two is mirrored."""
    closest = dict[int, tuple[int, bool]]()
    for pair in group.pairs:
        for sample in (pair.first, pair.second):
            found = pair.distance, pair.mirrored
            closest[id(sample)] = min(closest.get(id(sample), found), found)
    return [closest[id(sample)] for sample in group.samples]
