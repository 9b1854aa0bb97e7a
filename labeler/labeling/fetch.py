"""The first step of labeling: fetch an image, identify it by its checksum, and load it for the teacher."""

from typing import NamedTuple

from common.manifest import sha256
from common.sources import Source
from labeler.labeling.backend import Backend, LoadedImage
from labeler.labeling.timing import PhaseTimer
from labeler.planning.listing import PlannedImage


class FetchedImage(NamedTuple):
    """A planned image with its content. `timer` measures the work on this image."""

    planned: PlannedImage
    loaded: LoadedImage
    source_sha256: str
    timer: PhaseTimer


def fetch_image(planned: PlannedImage, source: Source, backend: Backend) -> FetchedImage:
    """Fetch and load a planned image.

    Raises ImageFailure if it is missing, unreadable or changed since it was planned, if it cannot be decoded, or if its
    size is outside the limits of the plan.
    """
    timer = PhaseTimer()
    with timer.measure("fetch"):
        content = source.read(planned.ref)
    with timer.measure("decode"):
        loaded = backend.load(content)
        checksum = sha256(content)
    return FetchedImage(planned, loaded, checksum, timer)
