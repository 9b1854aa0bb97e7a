import shutil

import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from tests.support.data.datasets import make_dataset, overwrite_member
from trainer.data.crops import center_crop
from trainer.data.dataset import open_dataset
from trainer.studies.accuracy import (
    LabeledImage,
    measure_accuracy,
    open_val_folders,
    read_folder_images,
    read_shard_images,
)

CPU = torch.device("cpu")


class BrightestChannel(nn.Module):
    """Model whose logits are the means of the color channels; it must be in evaluation mode."""

    def logits(self, images):
        assert not self.training
        return images.mean((2, 3))


def images_of_class_1(*channels):
    """Return an image for each index of a color channel: that channel is bright, the class index is 1."""
    colors = torch.eye(3).mul(200).to(torch.uint8)
    return [LabeledImage(colors[channel].view(3, 1, 1).expand(3, 4, 4), 1) for channel in channels]


def test_accuracy_is_the_fraction_of_correct_images_in_evaluation_mode():
    model = BrightestChannel().train()
    assert measure_accuracy(model, images_of_class_1(1, 1, 0, 2), CPU) == 0.5
    assert model.training
    assert measure_accuracy(model, images_of_class_1(*[1] * 300, *[0] * 300), CPU) == 0.5
    assert torch.tensor(measure_accuracy(model, [], CPU)).isnan()


def test_each_image_of_the_shards_is_read_once_as_a_crop(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3, 2], classes=3)))
    images = list(read_shard_images(data, 32))
    assert [image.label for image in images] == [0, 1, 2, 0, 1]
    assert all(image.image.shape == (3, 32, 32) for image in images)
    (tmp_path / data.shards[1]).write_bytes(
        (tmp_path / data.shards[1]).read_bytes().replace(b"\xff\xd8\xff", b"no\xff")
    )
    with pytest.raises(UserError, match=r"train-000001\.tar: 000000003 cannot be read"):
        list(read_shard_images(data, 32))


def test_damaged_and_missing_shards_are_skipped_with_skip_damaged(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [2, 3, 2], classes=3)))
    damaged = tmp_path / data.shards[1]
    damaged.write_bytes(damaged.read_bytes()[: damaged.read_bytes().index(b"000000003.")])
    with pytest.raises(UserError, match=r"train-000001\.tar: damaged after sample 000000002: expected 3 samples"):
        list(read_shard_images(data, 32))
    (tmp_path / data.shards[0]).unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar: damaged at its first sample: .*No such file"):
        list(read_shard_images(data, 32))
    assert [image.label for image in read_shard_images(data, 32, skip_damaged=True)] == [2, 2, 0]


@pytest.mark.parametrize(("content", "reason"), [(b"x", "invalid literal"), (b"7", "class 7 of 3")])
def test_image_whose_class_is_none_of_the_classes_cannot_be_read(content, reason, tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3], classes=3)))
    overwrite_member(tmp_path, data.shards[0], "000000001", "cls", content)
    with pytest.raises(UserError, match=rf"train-000000\.tar: 000000001 cannot be read: {reason}"):
        list(read_shard_images(data, 32))
    assert [image.label for image in read_shard_images(data, 32, skip_damaged=True)] == [0, 2]


def test_labels_of_class_folders_are_class_indices_of_the_model(tmp_path):
    for name, value in (("lime", 100), ("red", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30), (value, 0, 0)).save(tmp_path / name / "0.png")
    images = list(read_folder_images(open_val_folders(str(tmp_path), ["red", "lime"]), ["red", "lime"], 16, {}))
    assert [(image.label, int(image.image[0, 0, 0])) for image in images] == [(1, 100), (0, 200)]
    torch.testing.assert_close(
        images[0].image,
        center_crop(
            torch.full((3, 30, 40), 100, dtype=torch.uint8) * torch.tensor([1, 0, 0], dtype=torch.uint8).view(3, 1, 1),
            16,
        ),
    )


def test_unreadable_images_of_class_folders_are_skipped_and_named(tmp_path):
    for name in ("lime", "red"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 30)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "lime/1.png").write_bytes(b"no image")
    unreadable = {}
    images = read_folder_images(open_val_folders(str(tmp_path), ["red", "lime"]), ["red", "lime"], 16, unreadable)
    assert [image.label for image in images] == [1, 0, 0]
    assert list(unreadable) == ["lime/1.png"]
    assert unreadable["lime/1.png"].startswith("not_an_image: ")


def test_class_folders_other_than_the_classes_raise_an_error(tmp_path):
    for name in ("lime", "red"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / name / "0.png")
    with pytest.raises(
        UserError, match=r"the 2 classes of the training data, found 2 with 1 missing \(blue\) and 1 unknown \(lime\)"
    ):
        open_val_folders(str(tmp_path), ["red", "blue"])
    shutil.rmtree(tmp_path / "lime")
    shutil.rmtree(tmp_path / "red")
    with pytest.raises(UserError, match=f"--val {tmp_path}"):
        open_val_folders(str(tmp_path), ["red"])
