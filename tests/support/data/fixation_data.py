"""Small data sets of synthetic photographs with random fixations, in the `csv:` layout."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.fixations import FixatedImage, open_fixations
from tests.support.data.pictures import encoded, jpeg, write

WIDTH, HEIGHT = 64, 47  # not 4:3: symmetric pixels of the center prior would be tied up to rounding errors


def random_fixations(images: int = 4, subjects: int = 2, fixations: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Return rows of subject, x, y (pixels) by image name.

    Fixations are at pixel centers, and no two fixations of an image are at the same pixel. `fixations` is their number
    per subject and image.
    """
    generator = np.random.default_rng(seed)
    rows = {}
    for index in range(images):
        chosen = generator.choice(WIDTH * HEIGHT, subjects * fixations, replace=False)
        y, x = np.unravel_index(chosen, (HEIGHT, WIDTH))
        rows[f"photo{index:02}.jpg"] = np.column_stack([np.arange(len(chosen)) % subjects, x + 0.5, y + 0.5])
    return rows


def write_fixation_data(folder: Path, rows_by_image: dict[str, np.ndarray]) -> str:
    """Write synthetic photographs with these fixations and return the data set's location for `--data`."""
    lines = [f"{name},{int(s)},{x},{y}\n" for name, rows in rows_by_image.items() for s, x, y in rows]
    files = {f"images/{name}": jpeg(WIDTH, HEIGHT, seed) for seed, name in enumerate(rows_by_image)}
    write(folder, {**files, "fixations.csv": ("image,subject,x,y\n" + "".join(lines)).encode()})
    return f"csv:{folder}"


def paint_human_maps(folder: Path) -> list[FixatedImage]:
    """Replace the photographs of such a data set by gray images of their human attention maps."""
    images = open_fixations(f"csv:{folder}").images
    for image in images:
        attention = image.attention_map(HEIGHT, WIDTH).numpy()
        gray = Image.fromarray((attention / attention.max() * 255).round().astype(np.uint8))
        image.path.write_bytes(encoded(gray, "JPEG", quality=100))
    return images
