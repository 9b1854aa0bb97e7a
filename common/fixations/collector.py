"""Conversion of recorded fixations to fixated images, shared by all readers, and counts of what is excluded."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError, describe_error
from common.fixations.data import FixatedImage, FixationData
from common.fixations.exclusions import (
    MISSING,
    OUTSIDE,
    REPEATED,
    UNFIXATED,
    UNPLACED,
    UNREADABLE,
    describe_exclusion,
)
from common.sources.local import LocalSource

ASPECT_TOLERANCE = 0.02  # relative difference of aspect ratio between an image and the frame of its fixations
MAX_NAMES_PER_REASON = 3  # excluded images that are recorded by name


class RawFixations(NamedTuple):
    """The fixations recorded on one image, in pixels.

    `positions` is [n, 2]: x and y in pixels of the recorded frame. (0, 0) is the frame's upper left corner, so the
    center of the first pixel is (0.5, 0.5). `subjects` is [n]; `durations` is [n] in milliseconds.
    """

    positions: np.ndarray
    subjects: np.ndarray
    durations: np.ndarray | None = None


class Collector:
    """Builder of a `FixationData` from the recorded fixations of each image.

    `folder` is the data set's folder, for messages; `images` maps the names of images to their files. Fixations outside
    of the frame or without a position (NaN) are excluded, as are images without a file, with an unreadable file or
    without a fixation.
    """

    def __init__(self, folder: Path, images: dict[str, Path]) -> None:
        self._folder = folder
        self._files = images
        self._added: set[str] = set()
        self._recorded = 0
        self._images: list[FixatedImage] = []
        self._excluded: Counter[str] = Counter()
        self._first_excluded: defaultdict[str, list[str]] = defaultdict(list)

    def add(
        self,
        name: str,
        raw: RawFixations,
        frame: tuple[float, float] | None = None,
        trajectory: bool = False,
        split: str = "",
        map_path: Path | None = None,
    ) -> None:
        """Add the fixations of one image.

        `frame` is the width and height of the frame that `raw` refers to; by default the image's own. If `trajectory`,
        only each subject's first sample at every pixel is used. Raises UserError if the image was added before, if its
        aspect ratio differs from that of the frame, or if its map has another size than the image.
        """
        path = self._files.get(name)
        if name in self._added:
            raise UserError(f"{self._folder}: found two records of fixations for {name}, expected one")
        self._added.add(name)
        if path is None or not path.is_file():
            self._exclude(MISSING, [name])
            return
        try:
            size = read_image_size(path)
        except UserError:
            self._exclude(UNREADABLE, [name])
            return
        _check_map_size(map_path, size)
        _check_aspect_ratio(path, size, frame)
        bounds = np.asarray(frame or size, np.float64)
        raw = self._select_inside(name, raw, bounds)
        if trajectory:
            raw = self._select_first_visits(raw)
        if not len(raw.positions):
            self._exclude(UNFIXATED, [name])
            return
        self._images.append(
            FixatedImage(
                name=name,
                path=path,
                width=size[0],
                height=size[1],
                fixations=(raw.positions.clip(0.5, bounds - 0.5) / bounds).astype(np.float32),
                subjects=raw.subjects.astype(np.int32),
                durations=None if raw.durations is None else raw.durations.astype(np.float32),
                split=split,
                map_path=map_path,
            )
        )

    def finish(self) -> FixationData:
        """Return the data set. Raises UserError if it has no image, or if most fixations lie outside of the images."""
        self._exclude(UNFIXATED, sorted(self._files.keys() - self._added))
        excluded = +self._excluded
        if excluded[OUTSIDE] > self._recorded / 2:
            raise UserError(
                f"{self._folder}: {excluded[OUTSIDE]:,} of {self._recorded:,} fixations lie outside of their images; "
                "their coordinates must be pixels of the images as they are stored here"
            )
        if not self._images:
            counts = ", ".join(describe_exclusion(reason, count) for reason, count in excluded.items()) or "no images"
            faults = [reason for reason in (MISSING, UNREADABLE) if excluded[reason]]
            example = f" (first: {self._first_excluded[faults[0]][0]})" if faults else ""
            raise UserError(f"{self._folder}: expected images with fixations; found {counts}{example}")
        return FixationData(sorted(self._images, key=lambda image: image.name), excluded, dict(self._first_excluded))

    def _exclude(self, reason: str, names: Sequence[str], count: int | None = None) -> None:
        """Count the images `names` as excluded or, if `count` is given, that many fixations of a single image."""
        number = len(names) if count is None else count
        if number:
            self._excluded[reason] += number
            self._first_excluded[reason] += names[: MAX_NAMES_PER_REASON - len(self._first_excluded[reason])]

    def _select_inside(self, name: str, raw: RawFixations, bounds: np.ndarray) -> RawFixations:
        """Select the fixations that have a position inside of the frame."""
        unplaced = np.any(np.isnan(raw.positions), axis=1)
        inside = np.asarray(np.all((raw.positions >= 0) & (raw.positions <= bounds), axis=1))
        self._recorded += len(inside)
        self._exclude(UNPLACED, [name], int(unplaced.sum()))
        self._exclude(OUTSIDE, [name], int((~inside & ~unplaced).sum()))
        return _select(raw, inside)

    def _select_first_visits(self, raw: RawFixations) -> RawFixations:
        """Select each subject's first sample at every pixel."""
        columns, rows = np.floor(raw.positions).astype(np.int64).T
        _, subjects = np.unique(raw.subjects, return_inverse=True)
        pixels = (subjects * (rows.max(initial=0) + 1) + rows) * (columns.max(initial=0) + 1) + columns
        first = np.sort(np.unique(pixels, return_index=True)[1])
        self._excluded[REPEATED] += len(pixels) - len(first)
        return _select(raw, first)


def list_image_files(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder, at any depth, by their relative paths.

    Raises UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder.parent}: expected a folder {folder.name} with the images")
    table = LocalSource(folder).list().table
    return {uri: folder / uri for uri in table.filter(table["container"].is_null())["uri"].to_pylist()}


def read_image_size(path: Path) -> tuple[int, int]:
    """Return an image's width and height, reading only its header. Raises UserError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow raises exceptions of many types for malformed files
        raise UserError(f"{path}: the image cannot be read: {describe_error(error)}") from None


def _check_map_size(map_path: Path | None, size: tuple[int, int]) -> None:
    map_size = size if map_path is None else read_image_size(map_path)
    if map_size != size:
        raise UserError(f"{map_path}: the map is {_format_size(map_size)}, its image {_format_size(size)}")


def _check_aspect_ratio(path: Path, size: tuple[int, int], frame: tuple[float, float] | None) -> None:
    if frame is not None and abs(frame[0] / frame[1] * size[1] / size[0] - 1) > ASPECT_TOLERANCE:
        raise UserError(
            f"{path}: the image is {_format_size(size)}, its fixations were recorded on {_format_size(frame)}"
        )


def _select(raw: RawFixations, selection: np.ndarray) -> RawFixations:
    """Index every field with `selection`, a mask or indices."""
    durations = None if raw.durations is None else raw.durations[selection]
    return RawFixations(raw.positions[selection], raw.subjects[selection], durations)


def _format_size(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g} pixels"
