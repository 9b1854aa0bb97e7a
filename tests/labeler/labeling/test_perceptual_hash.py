"""Tests of perceptual hashes against pdqhash, the bindings of PDQ's reference implementation."""

import io
from pathlib import Path

import numpy as np
import pdqhash
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from labeler.labeling.gpu_backend import GpuBackend
from labeler.labeling.perceptual_hash import format_hash, hash_images, hash_jpeg
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import CustomTeacher
from tests.support.data.pictures import encoded, exif, write
from tests.support.jobs import ROOT, planned
from tests.support.labeled import make_dataset
from tests.support.teachers import gradient_teacher

PHOTOGRAPHS = [*sorted((ROOT / "common/images/check_photographs").glob("*.jpg")), ROOT / "labeler/example.jpg"]
MAX_BITS = 10  # different from pdqhash's


def count_differences(found: str | None, image: Image.Image) -> int:
    """Count the bits of a hash in hexadecimal that differ from pdqhash's of an image."""
    assert found is not None
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(found), np.uint8))
    return int((bits != pdqhash.compute(np.array(image.convert("RGB")))[0]).sum())


def saved(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [None, (500, 375), (333, 500), (128, 128), (640, 480), (97, 1300), (2600, 40)])
def test_hash_is_that_of_pdqhash(photograph: Path, size: tuple[int, int] | None) -> None:
    content = photograph.read_bytes()
    if size is not None:
        content = saved(Image.open(photograph).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    assert count_differences(hash_jpeg(content, 1), Image.open(io.BytesIO(content))) <= MAX_BITS


def test_hash_is_that_of_the_upright_image(tmp_path: Path) -> None:
    images = {
        f"{path.stem}_{orientation}.jpg": saved(Image.open(path).convert("RGB"), exif=exif(orientation))
        for path in PHOTOGRAPHS[:2]
        for orientation in range(1, 9)
    }
    output = make_dataset(write(tmp_path / "images", images), tmp_path / "out", min_side=8)
    rows = pq.read_table(output / "index.parquet", columns=["source", "phash"]).to_pylist()
    assert len(rows) == 16
    for row in rows:
        stored = Image.open(io.BytesIO(images[row["source"]]))
        upright = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(stored.getexif()[0x0112])
        image = stored if upright is None else stored.transpose(Image.Transpose(upright))
        assert count_differences(row["phash"], image) <= MAX_BITS
    assert len({row["phash"] for row in rows}) == 16


def test_batches_have_the_hashes_of_single_images() -> None:
    photographs = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in PHOTOGRAPHS]
    inputs = torch.stack([resize_to_input(pixels.permute(2, 0, 1).contiguous()) for pixels in photographs])
    sizes = [(pixels.shape[0], pixels.shape[1]) for pixels in photographs]
    codes = [format_hash(code) for code in hash_images(inputs.float(), sizes).numpy()]
    for code, path in zip(codes, PHOTOGRAPHS, strict=True):
        assert count_differences(code, Image.open(path)) <= MAX_BITS


def test_backend_for_gpus_gives_each_image_its_hash(tmp_path: Path) -> None:
    contents = {f"{path.stem}.jpg": path.read_bytes() for path in PHOTOGRAPHS}
    plan = planned(write(tmp_path / "images", contents), tmp_path / "out", batch_size=8)
    backend = GpuBackend(CustomTeacher(gradient_teacher()), plan.config, torch.device("cpu"), None)
    labels = backend.predict([backend.load(content) for content in contents.values()], PhaseTimer())
    assert len(labels) == len(contents)
    for label, path in zip(labels, PHOTOGRAPHS, strict=True):
        assert count_differences(label().phash, Image.open(path)) <= MAX_BITS


@pytest.mark.parametrize(("contrast", "has_hash"), [(0, False), (0.5, False), (2, True)])
def test_almost_uniform_images_have_no_hash(contrast: float, has_hash: bool) -> None:
    rows, columns = (torch.cos(4.5 * np.pi * (torch.arange(side) + 0.5) / side) for side in (480, 640))
    image = (100 + contrast * 2 * rows[:, None] * columns).expand(1, 3, 480, 640)
    assert (format_hash(hash_images(image, [(480, 640)])[0].numpy()) is not None) == has_hash
