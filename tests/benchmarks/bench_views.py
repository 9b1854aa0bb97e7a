"""A sample on its way to the device, on one core, against torchvision's usual SimCLR transform.

torchvision: the JPEG is decoded, and each of two views cropped, flipped, jittered, greyed and blurred, image by image.
ours: the JPEG is decoded once and cropped three times (two views, the whole frame); the device does the rest, to the
whole batch. The further rows are what the bar leaves out: the attention map, the gaze points and the augmentation's
parameters that a sample also has; and our device's part on the same core, so that both end with finished views.
"""

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timing import SHARED_DATA, against, medians, needed, table
from torchvision.transforms import v2

from common.images import decoded_jpeg
from tests.trainer.datasets import disc_sample
from trainer.augment import augmented, draw_augmentation, kernel_size
from trainer.stream import Members, Sample, decoded, joined
from trainer.views import cropped, draw_crop, whole

BAR = 8
PHOTOGRAPHS = 32
MAP_SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = needed(SHARED_DATA / "imagenet-sample")
    jpegs = [path.read_bytes() for path in sorted(folder.rglob("*.JPEG"))[:PHOTOGRAPHS]]
    samples = [labelled(index, jpeg) for index, jpeg in enumerate(jpegs)]
    cases = {
        "crops": lambda: [three_crops(jpeg, arguments.image_size) for jpeg in jpegs],
        "ours": lambda: ours(samples, arguments.image_size),
        "finished": lambda: finished(ours(samples, arguments.image_size)),
        "torchvision": torchvisions(jpegs, arguments.image_size),
    }
    seconds = medians(arguments.repetitions, **cases)
    table(
        f"decode and crop, {arguments.image_size} px, one core",
        [
            ("torchvision, two finished views", f"{len(jpegs) / seconds['torchvision']:.0f} samples/s", ""),
            ("ours, three crops for the device", f"{len(jpegs) / seconds['crops']:.0f} samples/s", ""),
            ("ours / torchvision", *against(seconds["torchvision"] / seconds["crops"], BAR)),
            ("with map, points and parameters", f"{seconds['torchvision'] / seconds['ours']:.3g} x", ""),
            ("and with our device's part", f"{seconds['torchvision'] / seconds['finished']:.3g} x", ""),
        ],
    )


def labelled(index: int, jpeg: bytes) -> Members:
    """A sample of a shard: the photograph, and a map of the usual size with a point that belong to another picture."""
    sample = disc_sample(index, None)
    attention = np.asarray(Image.fromarray(sample.attention).resize((MAP_SIDE, MAP_SIDE)))
    return {"__key__": sample.key, **sample._replace(jpeg=jpeg, attention=attention).members()}  # type: ignore[dict-item]


def three_crops(jpeg: bytes, side: int) -> list[torch.Tensor]:
    """Two random crops and the whole frame, of one decoding."""
    generator = np.random.default_rng(0)
    pixels = decoded_jpeg(jpeg)
    crops = [draw_crop(generator, *pixels.shape[1:]) for _ in range(2)]
    return [*(cropped(pixels, crop, side) for crop in crops), whole(pixels, side)]


def ours(samples: list[Members], side: int) -> list[Sample]:
    """What the trainer's threads do with samples."""
    generator = np.random.default_rng(0)
    return [decoded(sample, side, (draw_augmentation, draw_augmentation), generator) for sample in samples]


def finished(samples: list[Sample]) -> list[torch.Tensor]:
    """What the device does with a batch, here on the same core."""
    batch = joined([(sample, False) for sample in samples])
    return [augmented(batch.views[:, view], batch.augmentation[:, view]) for view in range(2)]


def torchvisions(jpegs: list[bytes], side: int) -> Callable[[], object]:
    """Two views of each photograph."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size(side), (0.1, 2.0))], 0.5),
            v2.PILToTensor(),
        ]
    )

    def run() -> None:
        torch.manual_seed(0)
        for jpeg in jpegs:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB")
            transform(image), transform(image)

    return run


if __name__ == "__main__":
    main()
