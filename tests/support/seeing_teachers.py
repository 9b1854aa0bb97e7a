"""Teachers whose maps a test can foresee, for `--teacher tests.support.seeing_teachers:NAME`, and data."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.fixations import FixatedImage, open_fixations
from tests.support.pictures import encoded, jpeg, write

WIDTH, HEIGHT = 64, 47  # with sides in proportion, a centre prior would have many pixels tied but for rounding
DARK = 0.02  # brightness


class Brightness(nn.Module):
    """The map is the picture's own brightness: on pictures of human maps, a perfect teacher."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1)


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images[:, 0], 0.3)


class LogDensity(nn.Module):
    """Below 0 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1).log() - 1


class FaultyInTheDark(nn.Module):
    """NaN for a dark picture, or an error."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.raises = raises

    def forward(self, images: Tensor) -> Tensor:
        dark = bool(images.mean() < DARK)
        if dark and self.raises:
            raise RuntimeError("too dark for me")
        return images.mean(1) * (torch.nan if dark else 1)


def nan_teacher() -> nn.Module:
    return FaultyInTheDark(raises=False)


def raising_teacher() -> nn.Module:
    return FaultyInTheDark(raises=True)


def looks(images: int = 4, subjects: int = 2, fixations: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of subject, x, y by image name: no two fixations of an image share a pixel, all at pixels' centres."""
    generator = np.random.default_rng(seed)
    rows = {}
    for index in range(images):
        chosen = generator.choice(WIDTH * HEIGHT, subjects * fixations, replace=False)
        y, x = np.unravel_index(chosen, (HEIGHT, WIDTH))
        rows[f"photo{index:02}.jpg"] = np.column_stack([np.arange(len(chosen)) % subjects, x + 0.5, y + 0.5])
    return rows


def data_set(folder: Path, seen: dict[str, np.ndarray]) -> str:
    """Write made-up photographs and such rows; returns what `--data` takes."""
    lines = [f"{name},{int(s)},{x},{y}\n" for name, rows in seen.items() for s, x, y in rows]
    files = {f"images/{name}": jpeg(WIDTH, HEIGHT, seed) for seed, name in enumerate(seen)}
    write(folder, {**files, "fixations.csv": ("image,subject,x,y\n" + "".join(lines)).encode()})
    return f"csv:{folder}"


def paint_human_maps(folder: Path) -> list[FixatedImage]:
    """Replace the photographs of such a data set by grey pictures of their human maps."""
    images = open_fixations(f"csv:{folder}").images
    for image in images:
        attention = image.attention_map(HEIGHT, WIDTH).numpy()
        grey = Image.fromarray((attention / attention.max() * 255).round().astype(np.uint8))
        image.path.write_bytes(encoded(grey, "JPEG", quality=100))
    return images
