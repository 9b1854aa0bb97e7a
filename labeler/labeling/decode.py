"""The steps before the teacher: fetch an image, decode it, and resize it to the teacher's input."""

from typing import NamedTuple

from torch import Tensor

from common.images import StoredImage, read_photograph
from common.manifest import LabelConfig, sha256
from common.sources import Source
from labeler.labeling.label import to_teacher_input
from labeler.labeling.timing import PhaseTimer
from labeler.planning.listing import PlannedImage


class DecodedImage(NamedTuple):
    """A fetched and decoded image, ready for the teacher.

    `stored` is the JPEG that goes into the shard, `source_sha256` the checksum of the source file, and `teacher_input`
    the upright, resized image, uint8 [3, 480, 640]. `timer` measures the work on this image.
    """

    planned: PlannedImage
    stored: StoredImage
    source_sha256: str
    teacher_input: Tensor
    timer: PhaseTimer


def decode_image(planned: PlannedImage, source: Source, config: LabelConfig) -> DecodedImage:
    """Fetch and decode a planned image.

    Raises ImageFailure if it is missing, unreadable or changed since it was planned, if it cannot be decoded, or if its
    size is outside the limits of `config`.
    """
    timer = PhaseTimer()
    with timer.measure("fetch"):
        content = source.read(planned.ref)
    with timer.measure("decode"):
        pixels, stored = read_photograph(content, config.max_pixels, config.min_side)
        teacher_input = to_teacher_input(pixels, stored.orientation)
    return DecodedImage(planned, stored, sha256(content), teacher_input, timer)
