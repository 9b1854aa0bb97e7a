"""Writer of small data sets in the layout of SALICON's release of 2015, for tests."""

import json
from pathlib import Path
from typing import Any

from tests.support.data.pictures import jpeg

WIDTH, HEIGHT = 80, 60


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_image(path: Path, seed: int = 0) -> Path:
    return put(path, jpeg(WIDTH, HEIGHT, seed))


def entry(number: int, file_name: str) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT, "license": 4}


def annotation(image: int, worker: int, fixations: list[list[float]]) -> dict[str, Any]:
    return {"image_id": image, "worker_id": worker, "id": 1, "fixations": fixations}


def put_annotations(root: Path, release: str, images: list[Any], annotations: list[Any]) -> Path:
    content = {"info": {"year": 2014}, "images": images, "annotations": annotations, "type": "fixations"}
    return put(root / "annotations" / f"fixations_{release}.json", json.dumps(content).encode())


def write_release_2015(root: Path, each: int = 1) -> Path:
    """Write `each` train and `each` val images in the layout of 2015, each viewed by two workers; return `root`."""
    for start, split in enumerate(("train", "val")):
        images, annotations = [], []
        for number in range(start, 2 * each, 2):
            name = f"COCO_{split}2014_{number}.jpg"
            put_image(root / "images" / f"{split}2014" / name, seed=number)
            images.append(entry(number, name))
            annotations += [annotation(number, 9, [[1, 1], [60, 80], [1, 1]]), annotation(number, 128, [[15, 40]])]
        put_annotations(root, f"{split}2014", images, annotations)
    return root
