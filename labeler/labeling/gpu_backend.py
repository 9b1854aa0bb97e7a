"""Labeling on a GPU: decoding, resizing, the teacher, maps and gaze points, for a whole batch at a time."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.errors import ImageFailure
from common.gaze import GAZE_SIGMA, find_peaks
from common.images import read_photograph
from common.images.gpu_decoder import Decode, is_last_block_uniform
from common.images.jpeg import check_pixel_data
from common.images.orientation import to_upright
from common.images.photographs import check_photograph, decode_photograph, describe_jpeg
from common.manifest import LabelConfig
from labeler.labeling.backend import Backend, LoadedImage
from labeler.labeling.label import Label, make_label, predict_maps, to_teacher_input
from labeler.labeling.perceptual_hash import format_hash, hash_images, upright_size
from labeler.labeling.resize import MAX_SIDE, resize_batch
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.model import TeacherModel

UNPLANNED_BATCH_SIZE = 32  # of plans of earlier versions, which may not state it


class GpuBackend(Backend):
    """Backend for a worker with a GPU, with the labels of `CpuBackend` except for the rounding of the teacher's sums.

    JPEGs that every decoder decodes to the same pixels (`JpegHeader.is_simple`) are decoded by `decode`, in batches.
    All others, and all if `decode` is None, are decoded in threads on the CPU. The device may also be a CPU, for tests.
    """

    def __init__(self, teacher: TeacherModel, config: LabelConfig, device: torch.device, decode: Decode | None) -> None:
        super().__init__(teacher, config, device, config.batch_size or UNPLANNED_BATCH_SIZE)
        self.decode = decode
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True

    def load(self, content: bytes) -> LoadedImage:
        max_pixels, min_side = self.config.max_pixels, self.config.min_side
        header = check_photograph(content, max_pixels, min_side)
        is_exact = header is not None and header.is_simple and _is_small(header.width, header.height)
        if self.decode is not None and header is not None and is_exact:
            return LoadedImage(describe_jpeg(content, header), None)
        pixels, stored = decode_photograph(content, header, max_pixels, min_side)
        if _is_small(*pixels.shape[1:]):
            return LoadedImage(stored, to_upright(pixels, stored.orientation))
        return LoadedImage(stored, to_teacher_input(pixels, stored.orientation))

    def predict(self, images: Sequence[LoadedImage], timer: PhaseTimer) -> list[Callable[[], Label]]:
        config = self.config
        with timer.measure("device_decode"):
            pixels, failures = self._place_on_device(images)
        with timer.measure("teacher"), torch.inference_mode():
            count = len(images) if config.is_of_earlier_version else self.batch_size  # earlier versions did not pad
            inputs = resize_batch(pixels, count)
            maps = predict_maps(self.teacher, inputs, config.map_size)
            codes = hash_images(inputs[: len(images)], [upright_size(image.stored) for image in images])
            peaks = find_peaks(maps.grid, GAZE_SIGMA, config.gaze_threshold, config.max_gaze_points)
            stored, maxima, hashes = (tensor.cpu().numpy() for tensor in (maps.stored, maps.maxima, codes))
        labels = [
            functools.partial(
                make_label,
                stored[index],
                float(maxima[index]),
                functools.partial(peaks.points, index),
                image.stored.orientation,
                format_hash(hashes[index]),
            )
            for index, image in enumerate(images)
        ]
        return [_fail_with(failures[index]) if index in failures else label for index, label in enumerate(labels)]

    def _place_on_device(self, images: Sequence[LoadedImage]) -> tuple[list[Tensor], dict[int, ImageFailure]]:
        """Return the upright pixels of each image, uint8 [3, H, W], and the failures by index.

        An image that failed has any pixels.
        """
        jpegs = {index: image.stored.jpeg for index, image in enumerate(images) if image.pixels is None}
        decoded, failures = self._decode(jpegs)
        pixels = [
            to_upright(decoded[index], image.stored.orientation)
            if image.pixels is None
            else image.pixels.to(self.device, non_blocking=True)
            for index, image in enumerate(images)
        ]
        return pixels, failures

    def _decode(self, jpegs: Mapping[int, bytes]) -> tuple[dict[int, Tensor], dict[int, ImageFailure]]:
        """Decode JPEGs, all together or, if one of them is damaged, one by one on the CPU.

        Returns the pixels of each, and the failures.
        """
        if not jpegs or self.decode is None:
            return {}, {}
        try:
            decoded = dict(zip(jpegs, self.decode(list(jpegs.values())), strict=True))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError):
            return self._decode_one_by_one(jpegs)
        # The decoder fills in what a JPEG lacks; sky and white backgrounds are uniform too
        uniform = torch.stack([is_last_block_uniform(pixels) for pixels in decoded.values()]).tolist()
        failures = {}
        for index in itertools.compress(jpegs, uniform):
            try:
                check_pixel_data(jpegs[index], "RGB")
            except ImageFailure as failure:
                failures[index] = failure
        return decoded, failures

    def _decode_one_by_one(self, jpegs: Mapping[int, bytes]) -> tuple[dict[int, Tensor], dict[int, ImageFailure]]:
        decoded, failures = {}, {}
        for index, jpeg in jpegs.items():
            try:
                pixels = read_photograph(jpeg, self.config.max_pixels, self.config.min_side)[0]
            except ImageFailure as failure:
                failures[index] = failure
                pixels = torch.zeros(3, 1, 1, dtype=torch.uint8)
            decoded[index] = pixels.to(self.device)
        return decoded, failures


def _fail_with(failure: ImageFailure) -> Callable[[], Label]:
    def fail() -> Label:
        raise failure

    return fail


def _is_small(*sides: int) -> bool:
    return max(sides) <= MAX_SIDE
