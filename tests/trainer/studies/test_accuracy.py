import shutil

import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from tests.support.datasets import make_dataset
from trainer.data.crops import center_crop
from trainer.data.dataset import open_dataset, split_shards
from trainer.studies.held_out import (
    LabeledImage,
    measure_accuracy,
    open_val_folders,
    read_folder_images,
    read_shard_images,
)

CPU = torch.device("cpu")


class Brightest(nn.Module):
    """Classes are the brightest channel."""

    def logits(self, images):
        assert not self.training
        return images.mean((2, 3))


def coloured(*channels):
    return [
        LabeledImage(torch.eye(3)[channel].mul(200).to(torch.uint8).view(3, 1, 1).expand(3, 4, 4), 1)
        for channel in channels
    ]


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode():
    model = Brightest().train()
    assert measure_accuracy(model, coloured(1, 1, 0, 2), CPU) == 0.5
    assert model.training
    assert measure_accuracy(model, coloured(*[1] * 300, *[0] * 300), CPU) == 0.5
    assert torch.tensor(measure_accuracy(model, [], CPU)).isnan()


def test_every_image_of_the_shards_comes_once_as_its_middle(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3, 2], classes=3)))
    examples = list(read_shard_images(data, 32))
    assert [example.label for example in examples] == [0, 1, 2, 0, 1]
    assert all(example.image.shape == (3, 32, 32) for example in examples)
    (tmp_path / data.shards[1]).write_bytes(
        (tmp_path / data.shards[1]).read_bytes().replace(b"\xff\xd8\xff", b"no\xff")
    )
    with pytest.raises(UserError, match=r"train-000001\.tar: 000000003 cannot be read"):
        list(read_shard_images(data, 32))


def test_class_folders_are_read_in_the_order_of_the_classes(tmp_path):
    for name, value in (("lime", 100), ("red", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30), (value, 0, 0)).save(tmp_path / name / "0.png")
    examples = list(read_folder_images(open_val_folders(str(tmp_path), ["red", "lime"]), ["red", "lime"], 16))
    assert [(example.label, int(example.image[0, 0, 0])) for example in examples] == [(1, 100), (0, 200)]
    torch.testing.assert_close(
        examples[0].image,
        center_crop(
            torch.full((3, 30, 40), 100, dtype=torch.uint8) * torch.tensor([1, 0, 0], dtype=torch.uint8).view(3, 1, 1),
            16,
        ),
    )
    with pytest.raises(UserError, match=r"the 2 classes of the training data, found 2, .* \(blue\) .* \(lime\)"):
        open_val_folders(str(tmp_path), ["red", "blue"])
    shutil.rmtree(tmp_path / "lime")
    shutil.rmtree(tmp_path / "red")
    with pytest.raises(UserError, match=f"--val {tmp_path}"):
        open_val_folders(str(tmp_path), ["red"])


def test_a_split_holds_out_whole_shards_by_the_seed(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path / "ten", [1] * 10)))
    learnt, held_out = split_shards(data, 0.2, 0)
    assert (len(learnt.shards), len(held_out.shards), learnt.samples) == (8, 2, 8)
    assert {*learnt.shards, *held_out.shards} == set(data.shards)
    assert split_shards(data, 0.2, 0) == (learnt, held_out)
    assert {split_shards(data, 0.2, seed)[1].shards for seed in range(5)} != {held_out.shards}
    assert len({data.checksum, learnt.checksum, held_out.checksum}) == 3
    with pytest.raises(UserError, match="expected two shards or more"):
        split_shards(open_dataset(str(make_dataset(tmp_path / "one", [2]))), 0.2, 0)
