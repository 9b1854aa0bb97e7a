"""SALICON's files, as its authors published them first, for tests."""

import json
from pathlib import Path
from typing import Any

from tests.support.pictures import jpeg

WIDTH, HEIGHT = 80, 60


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, seed: int = 0) -> Path:
    return put(path, jpeg(WIDTH, HEIGHT, seed))


def entry(number: int, file_name: str) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT, "license": 4}


def annotation(image: int, worker: int, fixations: list[list[float]]) -> dict[str, Any]:
    return {"image_id": image, "worker_id": worker, "id": 1, "fixations": fixations}


def annotate(root: Path, release: str, images: list[Any], annotations: list[Any]) -> Path:
    content = {"info": {"year": 2014}, "images": images, "annotations": annotations, "type": "fixations"}
    return put(root / "annotations" / f"fixations_{release}.json", json.dumps(content).encode())


def first_release(root: Path, each: int = 1) -> Path:
    """So many train and val images of the release of 2015; two workers looked at each."""
    for start, split in enumerate(("train", "val")):
        images, looks = [], []
        for number in range(start, 2 * each, 2):
            name = f"COCO_{split}2014_{number}.jpg"
            picture(root / "images" / f"{split}2014" / name, seed=number)
            images.append(entry(number, name))
            looks += [annotation(number, 9, [[1, 1], [60, 80], [1, 1]]), annotation(number, 128, [[15, 40]])]
        annotate(root, f"{split}2014", images, looks)
    return root
