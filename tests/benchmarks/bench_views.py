"""A sample on its way to the device, on one core, against torchvision's usual SimCLR transform.

ours: the JPEG is decoded once and cropped three times (two views, the whole frame), the attention map and the gaze
points are read, the parameters of colour, grey and blur are drawn; the device applies them to the whole batch.
torchvision: the JPEG is decoded, and each of two views cropped, flipped, jittered, greyed and blurred, image by image;
no whole frame, no map. The last row makes the core do our device's part too, so that both end with finished views.
"""

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timing import SHARED_DATA, against, medians, needed, table
from torchvision.transforms import v2

from tests.trainer.datasets import disc_sample
from trainer.augment import augmented, draw_augmentation, kernel_size
from trainer.stream import Members, Sample, decoded

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
        "ours": lambda: ours(samples, arguments.image_size),
        "finished": lambda: finished(ours(samples, arguments.image_size)),
        "torchvision": torchvisions(jpegs, arguments.image_size),
    }
    seconds = medians(arguments.repetitions, **cases)
    table(
        f"decode and crop, {arguments.image_size} px, one core",
        [
            ("torchvision, two finished views", f"{len(jpegs) / seconds['torchvision']:.0f} samples/s", ""),
            ("ours, three crops for the device", f"{len(jpegs) / seconds['ours']:.0f} samples/s", ""),
            ("ours / torchvision", *against(seconds["torchvision"] / seconds["ours"], BAR)),
            ("the same, with our device's part", f"{seconds['torchvision'] / seconds['finished']:.3g} x", ""),
        ],
    )


def labelled(index: int, jpeg: bytes) -> Members:
    """A sample of a shard: the photograph, and a map of the usual size with a point that belong to another picture."""
    sample = disc_sample(index, None)
    attention = np.asarray(Image.fromarray(sample.attention).resize((MAP_SIDE, MAP_SIDE)))
    return {"__key__": sample.key, **sample._replace(jpeg=jpeg, attention=attention).members()}  # type: ignore[dict-item]


def ours(samples: list[Members], side: int) -> list[Sample]:
    """What the trainer's threads do with samples."""
    generator = np.random.default_rng(0)
    return [decoded(sample, side, (draw_augmentation, draw_augmentation), generator) for sample in samples]


def finished(samples: list[Sample]) -> torch.Tensor:
    """What the device does with a batch, here on the same core."""
    views, parameters = (torch.cat([getattr(one, name) for one in samples]) for name in ("views", "augmentation"))
    return augmented(views, parameters)


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
