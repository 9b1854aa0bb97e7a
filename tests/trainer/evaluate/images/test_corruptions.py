import io

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from tests.support.pictures import jpeg, photograph, write
from trainer.data.crops import center_crop
from trainer.evaluate.features import extract_here
from trainer.evaluate.images.corruptions import ALEXNET, CORRUPTIONS, EXTRA, corrupt, corrupt_images, open_imagenet_c
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.suites.imagenet_c import mean_accuracy, mean_corruption_error

CPU = torch.device("cpu")


@pytest.fixture
def clean(tmp_path):
    files = {f"{name}/{number}.jpg": jpeg(80, 64, seed=number) for name in "ab" for number in range(2)}
    return FolderImages("--val", str(write(tmp_path / "clean", files)), "val")


def official(folder, corruptions, severities=(1, 2), names=("a/0.jpg", "b/0.jpg")):
    for corruption in corruptions:
        for severity in severities:
            write(folder, {f"{corruption}/{severity}/{name}": jpeg(64, 64, seed=severity) for name in names})
    return str(folder)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_corruption_changes_images_as_the_seed_says(corruption):
    pixels = np.asarray(photograph(64, 64, seed=5))
    first, again, other = (corrupt(pixels, corruption, 3, [seed]) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == (pixels.shape, np.uint8)
    assert (first == again).all()
    assert (first != pixels).any()
    random = corruption not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    if random and corruption not in ("gaussian_blur", "saturate"):
        assert (first != other).any()


def test_made_images_are_the_centre_corrupted_and_saved_as_jpeg(clean):
    sets = corrupt_images(clean, ["contrast"], [4], seed=0)
    assert list(sets) == [("contrast", 4)]
    pixels = center_crop(clean.read(1), 224).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(corrupt(pixels, "contrast", 4, [0])).save(buffer, "JPEG", quality=85)
    found = sets["contrast", 4].read(1)
    assert found.shape == (3, 224, 224)
    theirs = torch.from_numpy(np.array(Image.open(io.BytesIO(buffer.getvalue())))).permute(2, 0, 1)
    assert (found.int() - theirs.int()).abs().max() <= 2  # decoders differ by roundings


def test_an_image_is_corrupted_alike_whatever_was_corrupted_before(clean):
    sets = corrupt_images(clean, ["gaussian_noise"], [1, 2], seed=7)
    alone = sets["gaussian_noise", 2].read(3)
    sets["gaussian_noise", 1].read(0)
    assert torch.equal(sets["gaussian_noise", 2].read(3), alone)
    assert not torch.equal(corrupt_images(clean, ["gaussian_noise"], [2], seed=8)["gaussian_noise", 2].read(3), alone)


def test_readers_corrupt_as_this_process_does(clean):
    class Means(torch.nn.Module):
        def features(self, images):
            return images.mean((2, 3))

    for corruption in ("defocus_blur", "frost"):  # by OpenCV's filter, and by its reading and resizing
        pictures = corrupt_images(clean, [corruption], [5], seed=0)[corruption, 5]
        alone, others = (
            np.concatenate([piece.rows[0] for piece in extract_here([Means()], pictures, 32, CPU, 2, readers)])
            for readers in (0, 2)
        )
        assert (alone == others).all()


def test_made_sets_are_all_nineteen_at_all_severities_each_with_an_identity(clean):
    sets = corrupt_images(clean, [], [1, 2, 3, 4, 5], seed=0)
    assert len(sets) == 19 * 5 == len({found.identity for found in sets.values()})


def test_published_folders_are_read_whole_with_the_extra_ones_that_are_there(tmp_path):
    folder = official(tmp_path, [*ALEXNET, EXTRA[0]])
    sets = open_imagenet_c(folder, [], [1, 2])
    assert len(sets) == 16 * 2
    assert all(found.framed and found.classes == ["a", "b"] for found in sets.values())


def test_missing_corruptions_are_named_unless_others_are_asked_for(tmp_path):
    folder = official(tmp_path, ["fog", "snow"])
    with pytest.raises(UserError, match=r"gaussian_noise, shot_noise, .* missing; expected the 15 corruptions of mCE"):
        open_imagenet_c(folder, [], [1])
    assert list(open_imagenet_c(folder, ["fog"], [1, 2])) == [("fog", 1), ("fog", 2)]
    with pytest.raises(UserError, match="frost missing; expected them, found snow, fog"):
        open_imagenet_c(folder, ["fog", "frost"], [1])
    with pytest.raises(UserError, match="--corruptions fogg: expected some of gaussian_noise"):
        open_imagenet_c(folder, ["fogg"], [1])
    with pytest.raises(UserError, match=r"--imagenet-c .*fog/3: there is no such file or folder"):
        open_imagenet_c(folder, ["fog"], [1, 3])


def test_sets_of_different_images_are_refused(tmp_path):
    folder = official(tmp_path, ["fog", "snow"])
    write(tmp_path, {"fog/2/a/9.jpg": jpeg()})
    with pytest.raises(UserError, match=r"imagenet-c fog 2 .* hold different images, such as a/9\.jpg"):
        open_imagenet_c(folder, ["fog", "snow"], [1, 2])


def test_mce_is_one_for_alexnet_and_a_hundredth_of_the_papers_for_resnet50():
    alexnet = {name: dict.fromkeys(range(1, 6), 1 - error) for name, error in ALEXNET.items()}
    assert mean_corruption_error(alexnet) == pytest.approx(1)
    # ResNet-50's corruption errors, relative to AlexNet's, and their mean (Hendrycks and Dietterich 2019, table 1)
    relative = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]
    resnet = {
        name: dict.fromkeys(range(1, 6), 1 - error * share / 100)
        for (name, error), share in zip(ALEXNET.items(), relative, strict=True)
    }
    assert mean_corruption_error(resnet) == pytest.approx(0.767, abs=0.003)


def test_the_mean_is_over_the_fifteen_and_missing_where_one_is():
    top1 = {name: {1: 0.2, 2: 0.4} for name in ALEXNET}
    assert mean_accuracy(top1 | {EXTRA[0]: {1: 1.0, 2: 1.0}}) == pytest.approx(0.3)
    assert mean_corruption_error(top1) is None
    del top1["fog"]
    assert mean_accuracy(top1) is None
