"""Images with human fixations for the trainer's tests: the images of `datasets`, fixated on the center of the disc."""

import io
from pathlib import Path

from PIL import Image

from tests.support.data.datasets import disc_sample

FIRST_INDEX = 1000  # index of the first disc image; the tests' labeled data sets use smaller ones


def write_people_csv(folder: Path, number: int, width: int = 64, height: int = 48) -> str:
    """Write images with fixations of two subjects each in the `csv:` layout; return the data set's location.

    `number` is the number of images; `width` and `height` are their size in pixels.
    """
    (folder / "images").mkdir(parents=True)
    lines = ["image,subject,x,y"]
    for index in range(number):
        sample = disc_sample(FIRST_INDEX + index, None, width, height)
        Image.open(io.BytesIO(sample.jpeg)).save(folder / f"images/{index}.jpg", quality=95)
        x, y, _ = sample.gaze[0]
        lines += [f"{index}.jpg,{subject},{x * width:.2f},{y * height:.2f}" for subject in range(2)]
    (folder / "fixations.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{folder}"
