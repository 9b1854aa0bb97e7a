"""Golden maps: what the bundled teacher predicts for photographs that are part of scikit-image.

`python -m tests.support.golden_maps` writes the file again, after a deliberate change of the weights or the network.
"""

import importlib.resources
import json
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from labeler.teacher.model import TeacherModel, resize_to_input
from labeler.teacher.weights import find_teacher
from tests.support.jobs import ROOT

FILE = ROOT / "tests/labeler/teacher/golden_maps.json"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")  # PNG: all decoders read the same pixels
CELL = 40  # side of the squares of a map whose means are stored, in pixels


def open_photograph(name: str) -> Image.Image:
    """Open one of scikit-image's photographs as RGB."""
    return Image.open(importlib.resources.files("skimage") / "data" / name).convert("RGB")


def predict_map(teacher: TeacherModel, name: str, dtype: torch.dtype) -> tuple[np.ndarray, float]:
    """Return the means of a photograph's map over square cells, [12, 16], and the map's maximum before its division."""
    with torch.inference_mode():
        maps, maxima = teacher.predict(_to_teacher_input(open_photograph(name)).to(dtype) / 255)
        return F.avg_pool2d(maps, CELL)[0].numpy(), maxima.item()


def read_golden_maps() -> dict[str, Any]:
    """Return the content of the file: the identity of the teacher, and `means` and `maximum` by photograph."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def main() -> None:
    """Compute the golden maps in float64, in which they do not depend on the machine, and write them."""
    source = find_teacher("bundled")
    teacher, maps = source.build().double(), {}
    for name in PHOTOS:
        means, maximum = predict_map(teacher, name, torch.float64)
        maps[name] = {
            "maximum": round(maximum, 6),
            "means": [[round(mean, 6) for mean in row] for row in means.tolist()],
        }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(content)}" for name, content in maps.items())
    FILE.write_text(f'{{\n "teacher": "{source.identity.id}",\n "maps": {{\n{lines}\n }}\n}}\n')


def _to_teacher_input(image: Image.Image) -> Tensor:
    """Resize an image as the labeler does: with integers, and so to the same pixels on all machines.

    Pillow's integers are not the same in all of its versions.
    """
    return resize_to_input(torch.from_numpy(np.array(image)).permute(2, 0, 1))[None]


if __name__ == "__main__":
    main()
