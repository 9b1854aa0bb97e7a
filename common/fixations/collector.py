"""What every format's reader does alike: looks become fixated images, and what is left out is counted."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError, describe_error
from common.fixations.data import FixatedImage, FixationData
from common.sources.local import LocalSource

ASPECT_TOLERANCE = 0.02  # between an image and the frame that its fixations were recorded in

OUTSIDE = "fixations outside of their image"
UNPLACED = "fixations without a position"
REPEATED = "trajectory samples at a pixel that the subject had been at before"
MISSING = "images that have fixations but no file"
UNFIXATED = "images without a fixation"
UNREADABLE = "images whose file cannot be read"
NAMED = 3  # images by reason


class RawFixations(NamedTuple):
    """What was recorded for one image.

    `positions` is [n, 2]: x, y in pixels of the recorded frame, (0, 0) its upper left corner, so that the first
    pixel's centre is (0.5, 0.5). `subjects` is [n], `durations` [n] in milliseconds.
    """

    positions: np.ndarray
    subjects: np.ndarray
    durations: np.ndarray | None = None


class Collector:
    """Turns looks into fixated images and counts what is left out.

    `images` are the files by name. Fixations outside of the frame or without a position (NaN) are dropped; images
    without a file, with one that no decoder knows, or without a fixation are kept out.
    """

    def __init__(self, place: Path, images: dict[str, Path]) -> None:
        self._place = place
        self._files = images
        self._named: set[str] = set()
        self._recorded = 0
        self._images: list[FixatedImage] = []
        self._left_out: Counter[str] = Counter()
        self._first: defaultdict[str, list[str]] = defaultdict(list)

    def add(
        self,
        name: str,
        looks: RawFixations,
        frame: tuple[float, float] | None = None,
        trajectory: bool = False,
        split: str = "",
        map_path: Path | None = None,
    ) -> None:
        """Take an image's looks. `frame` is width, height of what they were recorded on, the image's own if None.

        Of a `trajectory` each subject's first sample at every pixel is kept. Raises UserError for an image of another
        shape than the frame or seen before, and for a map of another size than its image.
        """
        path = self._files.get(name)
        if name in self._named:
            raise UserError(f"{self._place}: the fixations of {name} are there twice")
        self._named.add(name)
        if path is None or not path.is_file():
            return self._leave_out(MISSING, [name])
        try:
            size = image_size(path)
        except UserError:
            return self._leave_out(UNREADABLE, [name])
        map_size = size if map_path is None else image_size(map_path)
        if map_size != size:
            raise UserError(f"{map_path}: the map is {_told_size(map_size)}, its image {_told_size(size)}")
        if frame is not None and abs(frame[0] / frame[1] * size[1] / size[0] - 1) > ASPECT_TOLERANCE:
            raise UserError(
                f"{path}: the image is {_told_size(size)}, its fixations were recorded on {_told_size(frame)}"
            )
        bounds = np.asarray(frame or size, np.float64)
        looks = self._placed(name, looks, bounds)
        if trajectory:
            looks = self._unrepeated(looks)
        if not len(looks.positions):
            return self._leave_out(UNFIXATED, [name])
        self._images.append(
            FixatedImage(
                name=name,
                path=path,
                width=size[0],
                height=size[1],
                fixations=(looks.positions.clip(0.5, bounds - 0.5) / bounds).astype(np.float32),
                subjects=looks.subjects.astype(np.int32),
                durations=None if looks.durations is None else looks.durations.astype(np.float32),
                split=split,
                map_path=map_path,
            )
        )

    def finish(self) -> FixationData:
        """The data set. Raises UserError where no image is left, or most fixations lie outside of their images."""
        self._leave_out(UNFIXATED, sorted(self._files.keys() - self._named))
        left_out = +self._left_out
        if left_out[OUTSIDE] > self._recorded / 2:
            raise UserError(
                f"{self._place}: {left_out[OUTSIDE]} of {self._recorded} fixations lie outside of their images; "
                "their coordinates must be pixels of the images as they are stored here"
            )
        if not self._images:
            counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no images"
            named = next((f" (the first: {self._first[why][0]})" for why in (MISSING, UNREADABLE) if left_out[why]), "")
            raise UserError(f"{self._place}: no image with fixations; found {counts}{named}")
        return FixationData(sorted(self._images, key=lambda image: image.name), left_out, dict(self._first))

    def _leave_out(self, reason: str, names: Sequence[str], count: int | None = None) -> None:
        """Count images, or as many fixations of one."""
        number = len(names) if count is None else count
        if number:
            self._left_out[reason] += number
            self._first[reason] += names[: NAMED - len(self._first[reason])]

    def _placed(self, name: str, looks: RawFixations, bounds: np.ndarray) -> RawFixations:
        """Without the fixations that have no position, or one outside of the frame."""
        unplaced = np.any(np.isnan(looks.positions), axis=1)
        inside = np.asarray(np.all((looks.positions >= 0) & (looks.positions <= bounds), axis=1))
        self._recorded += len(inside)
        self._leave_out(UNPLACED, [name], int(unplaced.sum()))
        self._leave_out(OUTSIDE, [name], int((~inside & ~unplaced).sum()))
        return _chosen(looks, inside)

    def _unrepeated(self, looks: RawFixations) -> RawFixations:
        """Each subject's first sample at every pixel."""
        columns, rows = np.floor(looks.positions).astype(np.int64).T
        _, subjects = np.unique(looks.subjects, return_inverse=True)
        pixels = (subjects * (rows.max(initial=0) + 1) + rows) * (columns.max(initial=0) + 1) + columns
        first = np.sort(np.unique(pixels, return_index=True)[1])
        self._left_out[REPEATED] += len(pixels) - len(first)
        return _chosen(looks, first)


def image_files(folder: Path) -> dict[str, Path]:
    """The images in a folder, to any depth, by their paths below it. Raises UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder.parent}: expected a folder {folder.name} with the images")
    table = LocalSource(folder).list().table
    return {uri: folder / uri for uri in table.filter(table["container"].is_null())["uri"].to_pylist()}


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the header alone. Raises UserError."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow raises many kinds on hostile bytes
        raise UserError(f"{path}: the image cannot be read: {describe_error(error)}") from None


def _chosen(looks: RawFixations, which: np.ndarray) -> RawFixations:
    durations = None if looks.durations is None else looks.durations[which]
    return RawFixations(looks.positions[which], looks.subjects[which], durations)


def _told_size(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g} pixels"
