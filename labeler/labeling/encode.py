"""The steps after the teacher: turn its maps into an image's label, and encode the sample for the tar file."""

from typing import NamedTuple

from common.manifest import Plan
from common.shards import Sample, SampleInfo
from common.sources.listing import class_folder
from labeler.labeling.decode import DecodedImage
from labeler.labeling.label import Maps, label_image
from labeler.labeling.timing import PhaseTimer


class EncodedSample(NamedTuple):
    """The files of one sample by extension, ready for the tar, and the time that the sample took."""

    key: str
    members: dict[str, bytes]
    timer: PhaseTimer


def encode_sample(image: DecodedImage, maps: Maps, index: int, plan: Plan) -> EncodedSample:
    """Label an image with the map at `index` of its batch, and encode the sample.

    Raises ImageFailure: constant_map, non_finite_map.
    """
    config, planned, stored = plan.config, image.planned, image.stored
    with image.timer.measure("encode"):
        label = label_image(maps, index, stored.orientation, config.gaze_threshold, config.max_gaze_points)
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
        jpeg = stored.jpeg if config.include_images else None
        sample = Sample(planned.key, jpeg, planned.class_index, info, label.attention, label.gaze)
        members = sample.members()
    return EncodedSample(planned.key, members, image.timer)
