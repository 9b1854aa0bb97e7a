import tarfile

import numpy as np
import pytest
import torch

from common.errors import ImageFailure, UserError
from tests.support.datasets import COLORS, disc_sample, make_dataset
from tests.support.pictures import jpeg, write
from trainer.evaluate.images.image_sets import FolderImages, check_classes, model_input, open_training, subsample


def class_folders(folder, classes=("b", "a"), images=3):
    return write(
        folder,
        {f"{name}/{number}.jpg": jpeg(40, 30, seed=number) for name in classes for number in range(images)},
    )


def test_class_folders_give_images_in_order_with_labels(tmp_path):
    found = FolderImages("--val", str(class_folders(tmp_path)), "val")
    assert found.classes == ["a", "b"]
    assert found.names == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.read(0).shape == (3, 30, 40)


def test_a_tar_gives_what_its_folder_gives_and_only_the_test_part(tmp_path):
    class_folders(tmp_path / "set/test")
    class_folders(tmp_path / "set/train", images=1)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "set/test", "test")
        tar.add(tmp_path / "set/train", "train")
    packed, folder = (
        FolderImages("--cifar", str(tmp_path / name), "cifar10", below="test") for name in ("set.tar", "set")
    )
    assert packed.names == folder.names
    assert len(packed.names) == 6
    assert torch.equal(packed.read(4), folder.read(4))


def test_the_centre_of_photographs_is_shown_and_small_images_whole(tmp_path):
    folder = str(class_folders(tmp_path))
    photograph, small = FolderImages("", folder, ""), FolderImages("", folder, "", framed=True)
    assert model_input(photograph, 0, 32).shape == model_input(small, 0, 32).shape == (3, 32, 32)
    assert not torch.equal(model_input(photograph, 0, 32), model_input(small, 0, 32))


def test_other_images_have_another_identity(tmp_path):
    first = FolderImages("", str(class_folders(tmp_path / "a")), "").identity
    assert FolderImages("", str(tmp_path / "a"), "").identity == first
    assert FolderImages("", str(class_folders(tmp_path / "b")), "").identity != first
    write(tmp_path, {"a/a/3.jpg": jpeg()})
    assert FolderImages("", str(tmp_path / "a"), "").identity != first


def test_what_are_no_class_folders_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^--val .*absent: there is no such file or folder"):
        FolderImages("--val", str(tmp_path / "absent"), "val")
    with pytest.raises(UserError, match="expected class folders with images, found no images"):
        FolderImages("--val", str(tmp_path), "val")
    write(tmp_path, {"lost.jpg": jpeg()})
    with pytest.raises(UserError, match=r"found lost\.jpg at the top"):
        FolderImages("--val", str(tmp_path), "val")


def test_the_folder_above_train_and_val_is_refused(tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "val")
    with pytest.raises(UserError, match=r"^--val .*: expected each class in one place, found a under train/ and val/"):
        FolderImages("--val", str(tmp_path), "val")
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(tmp_path / "train", "train")
        tar.add(tmp_path / "val", "val")
    with pytest.raises(UserError, match="found a under train/ and val/"):
        FolderImages("--val", str(tmp_path / "both.tar"), "val")


def test_a_labelled_data_set_gives_its_images_and_classes(tmp_path):
    found = open_training(str(make_dataset(tmp_path / "data", [3, 2])))
    assert found.classes == list(COLORS[:4])
    assert found.labels.tolist() == [0, 1, 2, 3, 0]
    assert found.names[3] == "train-000001.tar/000000003"
    direct = write(tmp_path / "direct", {"x/3.jpg": disc_sample(3, 4).jpeg or b""})
    assert torch.equal(found.read(3), FolderImages("", str(direct), "").read(0))


def test_a_data_set_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--train .* have no classes"):
        open_training(str(make_dataset(tmp_path / "data", [3], classes=None)))


def test_training_images_may_be_class_folders_too(tmp_path):
    assert open_training(str(class_folders(tmp_path))).classes == ["a", "b"]


def test_a_damaged_image_is_an_image_failure(tmp_path):
    found = FolderImages("", str(write(tmp_path, {"a/x.jpg": jpeg()[:200]})), "")
    with pytest.raises(ImageFailure, match="truncated"):
        found.read(0)


def test_so_many_images_are_drawn_by_the_seed(tmp_path):
    every = FolderImages("", str(class_folders(tmp_path, images=20)), "")
    some = subsample(every, 7, seed=1)
    assert len(some.names) == 7
    assert some.names == sorted(some.names) == subsample(every, 7, seed=1).names
    assert some.names != subsample(every, 7, seed=2).names
    assert [every.names.index(name) < 20 for name in some.names] == (np.array(some.labels) == 0).tolist()
    assert torch.equal(some.read(3), every.read(every.names.index(some.names[3])))
    assert subsample(every, 40, seed=1) is every


def test_classes_that_differ_are_named():
    check_classes(["a", "b"], ["b", "a"], "--val", "training")
    with pytest.raises(UserError, match=r"--val: expected the 2 classes of x's training, .* 1 are missing"):
        check_classes(["a", "c"], ["a", "b"], "--val", "x's training")
    with pytest.raises(UserError, match=r"6 are not known \(0, 1, 2, 3, 4 and 1 more\)"):
        check_classes(["a", *"012345"], ["a"], "--val", "training")


def test_a_class_that_is_called_test_is_one_among_others(tmp_path):
    assert open_training(str(class_folders(tmp_path, classes=("exam", "test")))).classes == ["exam", "test"]
