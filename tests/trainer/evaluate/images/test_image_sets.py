import tarfile

import numpy as np
import pytest
import torch

from common.errors import ImageFailure, UserError
from tests.support.data.datasets import COLORS, disc_sample, make_dataset
from tests.support.data.pictures import jpeg, write
from trainer.evaluate.images.image_sets import FolderImages, check_classes, open_training, read_model_input, subsample


def write_class_folders(folder, classes=("b", "a"), images=3):
    return write(
        folder,
        {f"{name}/{number}.jpg": jpeg(40, 30, seed=number) for name in classes for number in range(images)},
    )


def test_class_folders_are_sorted_and_labeled(tmp_path):
    images = FolderImages("--val", str(write_class_folders(tmp_path)), "val")
    assert images.classes == ["a", "b"]
    assert images.names == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "b/2.jpg"]
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.read(0).shape == (3, 30, 40)


def test_tar_equals_its_folder_and_only_the_subfolder_is_used(tmp_path):
    write_class_folders(tmp_path / "set/test")
    write_class_folders(tmp_path / "set/train", images=1)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "set/test", "test")
        tar.add(tmp_path / "set/train", "train")
    from_tar, from_folder = (
        FolderImages("--cifar", str(tmp_path / name), "cifar10", subfolder="test") for name in ("set.tar", "set")
    )
    assert from_tar.names == from_folder.names
    assert len(from_tar.names) == 6
    assert torch.equal(from_tar.read(4), from_folder.read(4))


def test_models_see_a_center_crop_or_the_whole_frame(tmp_path):
    folder = str(write_class_folders(tmp_path))
    cropped, whole = FolderImages("", folder, ""), FolderImages("", folder, "", whole_frame=True)
    assert read_model_input(cropped, 0, 32).shape == read_model_input(whole, 0, 32).shape == (3, 32, 32)
    assert not torch.equal(read_model_input(cropped, 0, 32), read_model_input(whole, 0, 32))


def test_identity_changes_with_location_and_images(tmp_path):
    first = FolderImages("", str(write_class_folders(tmp_path / "a")), "").identity
    assert FolderImages("", str(tmp_path / "a"), "").identity == first
    assert FolderImages("", str(write_class_folders(tmp_path / "b")), "").identity != first
    write(tmp_path, {"a/a/3.jpg": jpeg()})
    assert FolderImages("", str(tmp_path / "a"), "").identity != first


def test_location_without_class_folders_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^--val .*absent: there is no such file or folder"):
        FolderImages("--val", str(tmp_path / "absent"), "val")
    with pytest.raises(UserError, match="expected class folders with images, found no images"):
        FolderImages("--val", str(tmp_path), "val")
    write(tmp_path, {"lost.jpg": jpeg()})
    with pytest.raises(UserError, match=r"found lost\.jpg at the top"):
        FolderImages("--val", str(tmp_path), "val")


def test_folder_above_train_and_val_is_refused(tmp_path):
    write_class_folders(tmp_path / "train")
    write_class_folders(tmp_path / "val")
    with pytest.raises(UserError, match=r"^--val .*: expected one folder per class, found a under train/ and val/"):
        FolderImages("--val", str(tmp_path), "val")
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(tmp_path / "train", "train")
        tar.add(tmp_path / "val", "val")
    with pytest.raises(UserError, match="found a under train/ and val/"):
        FolderImages("--val", str(tmp_path / "both.tar"), "val")


def test_labeled_data_set_gives_its_images_and_classes(tmp_path):
    images = open_training(str(make_dataset(tmp_path / "data", [3, 2])))
    assert images.classes == list(COLORS[:4])
    assert images.labels.tolist() == [0, 1, 2, 3, 0]
    assert images.names[3] == "train-000001.tar/000000003"
    folder = write(tmp_path / "folder", {"x/3.jpg": disc_sample(3, 4).jpeg or b""})
    assert torch.equal(images.read(3), FolderImages("", str(folder), "").read(0))


def test_labeled_data_set_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--train .* have no classes"):
        open_training(str(make_dataset(tmp_path / "data", [3], classes=None)))


def test_training_images_may_be_in_class_folders(tmp_path):
    assert open_training(str(write_class_folders(tmp_path))).classes == ["a", "b"]


def test_damaged_image_is_an_image_failure(tmp_path):
    images = FolderImages("", str(write(tmp_path, {"a/x.jpg": jpeg()[:200]})), "")
    with pytest.raises(ImageFailure, match="truncated"):
        images.read(0)


def test_seed_determines_the_subsample(tmp_path):
    images = FolderImages("", str(write_class_folders(tmp_path, images=20)), "")
    subset = subsample(images, 7, seed=1)
    assert len(subset.names) == 7
    assert subset.names == sorted(subset.names) == subsample(images, 7, seed=1).names
    assert subset.names != subsample(images, 7, seed=2).names
    assert [images.names.index(name) < 20 for name in subset.names] == (np.array(subset.labels) == 0).tolist()
    assert torch.equal(subset.read(3), images.read(images.names.index(subset.names[3])))
    assert subsample(images, 40, seed=1) is images


def test_missing_and_unknown_classes_are_named():
    check_classes(["a", "b"], ["b", "a"], "--val", "training")
    expected = r"--val: expected the 2 classes of x's training, found 2 with 1 missing \(b\) and 1 unknown \(c\);"
    with pytest.raises(UserError, match=expected):
        check_classes(["a", "c"], ["a", "b"], "--val", "x's training")
    with pytest.raises(UserError, match=r"6 unknown \(0, 1, 2, 3, 4 and 1 more\)"):
        check_classes(["a", *"012345"], ["a"], "--val", "training")


def test_class_may_be_named_test(tmp_path):
    assert open_training(str(write_class_folders(tmp_path, classes=("exam", "test")))).classes == ["exam", "test"]
