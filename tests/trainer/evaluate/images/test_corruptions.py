import io
import itertools
import zlib
from types import SimpleNamespace

import imagecorruptions
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.storage import s3_client
from tests.support.data.pictures import jpeg, photograph, write
from trainer.data.crops import center_crop
from trainer.evaluate.extraction import extract_features
from trainer.evaluate.images.corruptions import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    CorruptedImages,
    corrupt,
    corrupt_images,
    open_imagenet_c,
    set_name,
)
from trainer.evaluate.images.image_sets import FolderImages

CPU = torch.device("cpu")


@pytest.fixture
def clean(tmp_path):
    files = {f"{name}/{number}.jpg": jpeg(80, 64, seed=number) for name in "ab" for number in range(2)}
    return FolderImages("--val", str(write(tmp_path / "clean", files)), "val")


def write_imagenet_c(folder, corruptions, severities=(1, 2), names=("a/0.jpg", "b/0.jpg")):
    for corruption in corruptions:
        for severity in severities:
            write(folder, {f"{corruption}/{severity}/{name}": jpeg(64, 64, seed=severity) for name in names})
    return str(folder)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corruption_changes_an_image_as_the_seed_determines(corruption):
    pixels = np.asarray(photograph(64, 64, seed=5))
    first, again, other = (corrupt(pixels, corruption, 3, [seed]) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == (pixels.shape, np.uint8)
    assert (first == again).all()
    assert (first != pixels).any()
    is_random = corruption not in (
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
        "gaussian_blur",
        "saturate",
    )
    if is_random:
        assert (first != other).any()


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corruption_is_that_of_the_library_at_the_same_severity(corruption):
    pixels = np.asarray(photograph(64, 64, seed=5))
    number = int(np.random.SeedSequence([1, 2]).generate_state(1)[0])
    options = {"seed": number} if corruption in ("glass_blur", "impulse_noise") else {}
    for severity in (1, 4):
        np.random.seed(number)
        expected = imagecorruptions.corrupt(pixels, severity, corruption, **options)
        np.testing.assert_array_equal(corrupt(pixels, corruption, severity, [1, 2]), expected)


def test_distortion_of_an_image_grows_with_the_severity(clean):
    corruptions = ["gaussian_noise", "zoom_blur", "brightness", "contrast"]
    sets = corrupt_images(clean, corruptions, [1, 2, 3, 4, 5], seed=0)
    crop = center_crop(clean.read(1), 224).int()
    for name in corruptions:
        distortions = [(sets[name, severity].read(1).int() - crop).abs().sum().item() for severity in range(1, 6)]
        assert all(lower < higher for lower, higher in itertools.pairwise(distortions)), (name, distortions)


def test_corrupted_image_is_a_center_crop_compressed_as_jpeg(clean):
    sets = corrupt_images(clean, ["contrast"], [4], seed=0)
    assert list(sets) == [("contrast", 4)]
    crop = center_crop(clean.read(1), 224).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(imagecorruptions.corrupt(crop, 4, "contrast")).save(buffer, "JPEG", quality=85)
    pixels = sets["contrast", 4].read(1)
    assert pixels.shape == (3, 224, 224)
    expected = torch.from_numpy(np.array(Image.open(io.BytesIO(buffer.getvalue())))).permute(2, 0, 1)
    assert (pixels.int() - expected.int()).abs().max() <= 2  # decoders differ by rounding


def test_corruption_does_not_depend_on_images_read_before(clean):
    sets = corrupt_images(clean, ["gaussian_noise"], [1, 2], seed=7)
    first = sets["gaussian_noise", 2].read(3)
    sets["gaussian_noise", 1].read(0)
    assert torch.equal(sets["gaussian_noise", 2].read(3), first)
    assert not torch.equal(corrupt_images(clean, ["gaussian_noise"], [2], seed=8)["gaussian_noise", 2].read(3), first)


def test_reader_processes_corrupt_as_this_process_does(clean):
    class Means(torch.nn.Module):
        def features(self, images):
            return images.mean((2, 3))

    for corruption in ("defocus_blur", "frost"):  # these use OpenCV: one filters, the other reads and resizes a file
        images = corrupt_images(clean, [corruption], [5], seed=0)[corruption, 5]
        in_this_process, in_readers = (
            np.concatenate([batch.vectors[0] for batch in extract_features([Means()], images, 32, CPU, 2, readers)])
            for readers in (0, 2)
        )
        assert (in_this_process == in_readers).all()


def test_default_is_all_19_corruptions_each_set_with_its_identity(clean):
    sets = corrupt_images(clean, [], [1, 2, 3, 4, 5], seed=0)
    assert len(sets) == 19 * 5 == len({images.identity for images in sets.values()})


def test_published_folders_are_read_with_available_extra_corruptions(tmp_path):
    folder = write_imagenet_c(tmp_path, [*ALEXNET_ERRORS, EXTRA_CORRUPTIONS[0]])
    sets = open_imagenet_c(folder, [], [1, 2])
    assert len(sets) == 16 * 2
    assert all(images.whole_frame and images.classes == ["a", "b"] for images in sets.values())


def test_missing_corruptions_are_named_unless_others_are_requested(tmp_path):
    folder = write_imagenet_c(tmp_path, ["fog", "snow"])
    with pytest.raises(UserError, match=r"lacks gaussian_noise, shot_noise, .*: expected the 15 corruptions of mCE"):
        open_imagenet_c(folder, [], [1])
    assert list(open_imagenet_c(folder, ["fog"], [1, 2])) == [("fog", 1), ("fog", 2)]
    with pytest.raises(UserError, match="lacks frost: expected those named with --corruptions, found snow, fog;"):
        open_imagenet_c(folder, ["fog", "frost"], [1])
    with pytest.raises(UserError, match="--corruptions fogg: expected some of gaussian_noise"):
        open_imagenet_c(folder, ["fogg"], [1])
    with pytest.raises(UserError, match=r"--imagenet-c .*fog/3: there is no such file or folder"):
        open_imagenet_c(folder, ["fog"], [1, 3])


def test_sets_of_different_images_are_refused(tmp_path):
    folder = write_imagenet_c(tmp_path, ["fog", "snow"])
    write(tmp_path, {"fog/2/a/9.jpg": jpeg()})
    with pytest.raises(UserError, match=r"imagenet-c fog 2 .* hold different images, such as a/9\.jpg"):
        open_imagenet_c(folder, ["fog", "snow"], [1, 2])


def test_published_folders_may_be_in_s3(monkeypatch):
    """A folder in S3 exists if there is an object below its name."""
    prefixes = []

    def list_page(location):
        prefixes.append((location.bucket, location.key))
        return {"Contents": [{"Key": "x"}]} if location.key == "data/c/fog/" else {}

    monkeypatch.setattr(s3_client, "list_page", list_page)
    with pytest.raises(UserError, match=r"--imagenet-c s3://bucket/data/c lacks snow: .* found fog; complete the data"):
        open_imagenet_c("s3://bucket/data/c/", ["snow"], [1])
    assert prefixes == [("bucket", f"data/c/{name}/") for name in CORRUPTIONS]


def test_missing_data_of_all_corruptions_are_described(tmp_path):
    with pytest.raises(UserError, match=r"found none; complete the data, or name available corruptions"):
        open_imagenet_c(str(tmp_path), [], [1])


def test_corrupted_sets_describe_themselves_and_keep_the_order_of_corruptions(clean):
    sets = corrupt_images(clean, ["fog", "snow"], [2, 1], seed=3)
    assert list(sets) == [("snow", 2), ("snow", 1), ("fog", 2), ("fog", 1)]
    images = sets["fog", 2]
    assert images.name == set_name("fog", 2) == "imagenet-c fog 2"
    assert (images.names, images.classes, images.whole_frame) == (clean.names, clean.classes, True)
    np.testing.assert_array_equal(images.labels, clean.labels)


def test_identity_of_a_corrupted_set_depends_on_images_corruption_severity_seed_and_library(clean, monkeypatch):
    def identity(images=clean, corruption="fog", severity=2, seed=3):
        return CorruptedImages(images, corruption, severity, seed).identity

    other = SimpleNamespace(identity="other", names=[], labels=[], classes=[])
    identities = [identity(), identity(other), identity(corruption="snow"), identity(severity=1), identity(seed=4)]
    monkeypatch.setattr("trainer.evaluate.images.corruptions.version", lambda package: f"{package} 99")
    assert len({*identities, identity()}) == 6


def test_random_numbers_of_an_image_depend_on_its_name_and_the_corruption(clean, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "trainer.evaluate.images.corruptions.corrupt",
        lambda pixels, corruption, severity, seed: seeds.append(seed) or pixels,
    )
    CorruptedImages(clean, "fog", 2, seed=3).read(1)
    assert seeds == [[3, 2, zlib.crc32(b"fog"), zlib.crc32(clean.names[1].encode())]]


def test_name_that_is_no_unicode_is_accepted(clean):
    clean.names[0] = b"a/\xff.jpg".decode("utf-8", "surrogateescape")
    images = CorruptedImages(clean, "brightness", 1, seed=0)
    images._clean = SimpleNamespace(read=lambda index: torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert images.read(0).shape == (3, 224, 224)
