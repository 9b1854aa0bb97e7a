"""The last step of labeling: encode the sample of an image for the tar file."""

from collections.abc import Callable
from typing import NamedTuple

from common.manifest import Plan
from common.shards import Sample, SampleInfo
from common.sources.listing import class_folder
from labeler.labeling.fetch import FetchedImage
from labeler.labeling.label import Label
from labeler.labeling.timing import PhaseTimer
from labeler.publishing.index_rows import IndexedSample, index_sample


class EncodedSample(NamedTuple):
    """One sample, ready for the tar: its files by extension, its row of the index, and the time that it took."""

    key: str
    members: dict[str, bytes]
    indexed: IndexedSample
    timer: PhaseTimer


def encode_sample(image: FetchedImage, make_label: Callable[[], Label], plan: Plan) -> EncodedSample:
    """Label an image and encode the sample.

    Raises the ImageFailure of `make_label`.
    """
    planned, stored = image.planned, image.loaded.stored
    with image.timer.measure("encode"):
        label = make_label()
        info = SampleInfo(
            source=planned.ref.uri,
            wnid=class_folder(planned.ref.uri) or "",
            width=stored.width,
            height=stored.height,
            exif_orientation=stored.orientation,
            source_sha256=image.source_sha256,
            reencoded_from=stored.reencoded_from,
            teacher=plan.teacher.id,
            map_max=label.map_max,
            gaze_points=len(label.gaze),
        )
        jpeg = stored.jpeg if plan.config.include_images else None
        sample = Sample(planned.key, jpeg, planned.class_index, info, label.attention, label.gaze)
        members, indexed = sample.members(plan.config.map_encoder), index_sample(sample, label.phash)
    return EncodedSample(planned.key, members, indexed, image.timer)
