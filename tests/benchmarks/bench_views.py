"""Decoding and cropping on one core, against torchvision's usual SimCLR transform.

torchvision decodes the JPEG, and crops, flips, jitters, grays and blurs each of two views, image by image. Ours decodes
the JPEG once and crops it three times (two views and the whole frame); the device does the rest for the whole batch.
Further rows add what the bar excludes: the attention map, the gaze points and the augmentation parameters of each
sample; and the device's part, run on the same core, so that both end with finished views.
"""

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from lightly_simclr import simclr_transform
from photographs import labeled_photographs
from PIL import Image
from timing import Row, print_table, rates, ratios, time_cases
from torchvision.transforms import v2

from common.images import decode_jpeg
from trainer.data.augment import augment, draw_augmentation
from trainer.data.crops import crop_and_resize, draw_crop, resize_frame
from trainer.data.decoding import Batch, SampleRequest, ViewSpec, decode_piece

BAR = 8  # decoding and cropping; with the augmentation on both sides the CPU path is no faster than torchvision's
PHOTOGRAPHS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photographs = labeled_photographs(PHOTOGRAPHS)
    jpegs = [sample.jpeg for sample in photographs if sample.jpeg]
    samples = [SampleRequest({"__key__": each.key, **each.members()}, (0,)) for each in photographs]  # type: ignore[dict-item]
    cases = {
        "crops": lambda: [three_crops(jpeg, arguments.image_size) for jpeg in jpegs],
        "ours": lambda: decode_samples(samples, arguments.image_size),
        "finished": lambda: augment_views(decode_samples(samples, arguments.image_size)),
        "torchvision": torchvision_transform(jpegs, arguments.image_size),
    }
    seconds = time_cases(arguments.repetitions, **cases)
    torchvision = seconds["torchvision"]
    print_table(
        f"decode and crop, {arguments.image_size} px, one core",
        [
            Row("torchvision, two finished views", rates(torchvision, len(jpegs)), "samples/s"),
            Row("ours, three crops for the device", rates(seconds["crops"], len(jpegs)), "samples/s"),
            Row("three crops: ours / torchvision's finished views", ratios(torchvision, seconds["crops"]), "x", BAR),
            Row("the same with map, points and parameters", ratios(torchvision, seconds["ours"]), "x"),
            Row("finished views on both sides: ours / torchvision", ratios(torchvision, seconds["finished"]), "x"),
        ],
    )


def three_crops(jpeg: bytes, side: int) -> list[torch.Tensor]:
    """Decode a JPEG once. Returns two random crops and the whole frame."""
    generator = np.random.default_rng(0)
    pixels = decode_jpeg(jpeg)
    crops = [draw_crop(generator, *pixels.shape[1:]) for _ in range(2)]
    return [*(crop_and_resize(pixels, crop, side) for crop in crops), resize_frame(pixels, side)]


def decode_samples(samples: list[SampleRequest], side: int) -> Batch:
    """Do what the trainer's decoding threads or processes do."""
    return decode_piece(samples, ViewSpec(side, (draw_augmentation, draw_augmentation), None))


def augment_views(batch: Batch) -> list[torch.Tensor]:
    """Do what the device does with a batch, here on the same core."""
    return [augment(batch.views[:, view], batch.augmentation[:, view]) for view in range(2)]


def torchvision_transform(jpegs: list[bytes], side: int) -> Callable[[], object]:
    """Return a function that makes two views of each photograph with torchvision."""
    transform = simclr_transform(side, [v2.PILToTensor()])

    def run() -> None:
        torch.manual_seed(0)
        for jpeg in jpegs:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB")
            transform(image), transform(image)

    return run


if __name__ == "__main__":
    main()
