"""Images with human fixations for the trainer's tests: the disc images of `datasets`, with fixations on the disc."""

import io
from pathlib import Path

from PIL import Image

from tests.support.datasets import disc_sample


def make_people(folder: Path, number: int, width: int = 64, height: int = 48) -> str:
    """Write `number` images, each fixated by two subjects, in the `csv:` layout; return the data set's location."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,subject,x,y"]
    for index in range(number):
        sample = disc_sample(1000 + index, None, width, height)
        Image.open(io.BytesIO(sample.jpeg)).save(folder / f"images/{index}.jpg", quality=95)
        x, y, _ = sample.gaze[0]
        lines += [f"{index}.jpg,{subject},{x * width:.2f},{y * height:.2f}" for subject in range(2)]
    (folder / "fixations.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{folder}"
