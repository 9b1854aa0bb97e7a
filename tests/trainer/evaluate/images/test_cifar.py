import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from common.errors import UserError
from tests.support.data.pictures import jpeg, write
from trainer.evaluate.images.cifar import CLASSES, open_cifar, open_cifar_c


def random_pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def write_cifar_c(folder, corruptions, images_per_severity=4):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(corruptions):
        np.save(folder / f"{name}.npy", random_pixels(5 * images_per_severity, seed=number))
    np.save(folder / "labels.npy", np.tile(np.arange(images_per_severity), 5))
    return str(folder)


PIXELS = random_pixels(6)
BATCH = {
    b"data": PIXELS.transpose(0, 3, 1, 2).reshape(6, -1),
    b"labels": [3, 1, 4, 1, 5, 9],
    b"batch_label": b"testing batch 1 of 1",
}


def check_is_batch(images):
    assert (images.labels.tolist(), images.classes) == ([3, 1, 4, 1, 5, 9], CLASSES)
    assert torch.equal(images.read(2), torch.from_numpy(PIXELS[2]).permute(2, 0, 1))


def write_archive(path, content, name="cifar-10-batches-py/test_batch"):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return str(path)


def test_published_batch_is_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(BATCH))
    check_is_batch(open_cifar(str(tmp_path)))


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-python.tar"])
def test_published_archive_is_read(tmp_path, name):
    check_is_batch(open_cifar(write_archive(tmp_path / name, pickle.dumps(BATCH))))


def test_archive_that_is_cut_or_lacks_the_batch_is_named(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, pickle.dumps(BATCH))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: cannot be read as CIFAR-10's test batch: "):
        open_cifar(str(path))
    write_archive(path, b"", name="other")
    with pytest.raises(UserError, match=r"cannot be read as CIFAR-10's test batch: .*cifar-10-batches-py/test_batch"):
        open_cifar(str(path))


def test_batch_that_python_3_wrote_for_python_2_is_read(tmp_path):
    (tmp_path / "test_batch").write_bytes(pickle.dumps(BATCH, protocol=2))
    check_is_batch(open_cifar(str(tmp_path)))


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_batch_in_any_pickle_protocol_of_python_3_is_read(tmp_path, protocol):
    pixels, labels = random_pixels(2), np.array([3, 1])
    batch = {b"data": pixels.transpose(0, 3, 1, 2).reshape(2, -1), b"labels": list(labels)}
    content = pickle.dumps(batch, protocol)
    for core in ("_core", "core") if protocol == 3 else ("_core",):  # protocol 4 stores the length of the module's name
        (tmp_path / "test_batch").write_bytes(content.replace(b"numpy._core", f"numpy.{core}".encode()))
        opened = open_cifar(str(tmp_path))
        assert opened.labels.tolist() == [3, 1]
        assert torch.equal(opened.read(1), torch.from_numpy(pixels[1]).permute(2, 0, 1))


def test_batch_of_python_2_and_numpy_1_is_read(tmp_path):
    """The published batch is one: its strings are bytes, and numpy's functions are in `numpy.core`."""
    pixels = random_pixels(1)
    array = pixels.transpose(0, 3, 1, 2).tobytes()
    (tmp_path / "test_batch").write_bytes(
        b"\x80\x02}(U\x06labels](K\x07eU\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x01M\x00\x0ctcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(array).to_bytes(4, "little") + array + b"tbu."
    )
    opened = open_cifar(str(tmp_path))
    assert opened.labels.tolist() == [7]
    assert torch.equal(opened.read(0), torch.from_numpy(pixels[0]).permute(2, 0, 1))


@pytest.mark.parametrize(
    "name", ["numpy\nload", "numpy.f2py.crackfortran\nmyeval", "numpy.other\nscalar", "other\ndtype"]
)
def test_batch_that_refers_to_anything_but_arrays_is_refused(tmp_path, name):
    (tmp_path / "test_batch").write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(UserError, match=f"expected arrays of numbers, found {name.replace(chr(10), '.')}"):
        open_cifar(str(tmp_path))


def test_batch_that_would_run_a_program_is_refused(tmp_path):
    class Program:
        def __reduce__(self):
            return print, ("hello",)

    (tmp_path / "test_batch").write_bytes(pickle.dumps(Program()))
    with pytest.raises(UserError, match=r"cannot be read as CIFAR-10's test batch: expected arrays .* builtins\.print"):
        open_cifar(str(tmp_path))


def test_class_folders_are_read_and_seen_whole(tmp_path):
    images = open_cifar(str(write(tmp_path, {"test/cat/0.jpg": jpeg(32, 32), "test/dog/0.jpg": jpeg(32, 32)})))
    assert (images.classes, images.whole_frame) == (["cat", "dog"], True)


def test_severities_follow_each_other_in_a_file(tmp_path):
    folder = write_cifar_c(tmp_path, ["fog", "frost"])
    sets = open_cifar_c(folder, ["fog"], [1, 3])
    assert list(sets) == [("fog", 1), ("fog", 3)]
    assert sets["fog", 3].labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(sets["fog", 3].read(1), torch.from_numpy(random_pixels(20)[9]).permute(2, 0, 1))
    assert len({images.identity for images in sets.values()}) == 2


def test_archive_of_cifar_c_is_not_taken_for_its_folder(tmp_path):
    (tmp_path / "CIFAR-10-C.tar").touch()
    with pytest.raises(UserError, match=r"CIFAR-10-C\.tar: expected a folder .* unpack it first"):
        open_cifar_c(str(tmp_path / "CIFAR-10-C.tar"), ["fog"], [1])


def test_missing_and_damaged_files_are_named(tmp_path):
    folder = write_cifar_c(tmp_path, ["fog"])
    with pytest.raises(UserError, match=r"--cifar-c .* lacks gaussian_noise, .*: expected the 15 corruptions of mCE"):
        open_cifar_c(folder, [], [1])
    (tmp_path / "frost.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"frost\.npy cannot be read as an array"):
        open_cifar_c(folder, ["frost"], [1])
    np.save(tmp_path / "snow.npy", random_pixels(7))
    with pytest.raises(
        UserError,
        match=r"snow\.npy: expected a multiple of 5 images with a label each, found 7 images and labels \[20\]",
    ):
        open_cifar_c(folder, ["snow"], [1])
    (tmp_path / "snow.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"snow\.npy cannot be read as an array"):
        open_cifar_c(folder, ["snow"], [1])
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"labels\.npy cannot be read as an array"):
        open_cifar_c(folder, ["fog"], [1])


@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (20, 32, 32, 1), (20, 32, 32), (20, 64, 64, 3)])
def test_arrays_of_another_shape_are_refused(tmp_path, shape):
    folder = write_cifar_c(tmp_path, ["fog"])
    np.save(tmp_path / "fog.npy", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=r"fog\.npy: expected uint8 images \[n, 32, 32, 3\], found uint8 \[20, "):
        open_cifar_c(folder, ["fog"], [1])


@pytest.mark.parametrize(("wrong", "found"), [(10, "10"), (-1, "-1"), (0.5, "1.0"), ("cat", "'1'")])
def test_labels_that_are_not_class_indices_are_refused(tmp_path, wrong, found):
    folder = write_cifar_c(tmp_path, ["fog"])
    np.save(tmp_path / "labels.npy", np.array([1] * 19 + [wrong]))
    with pytest.raises(UserError, match=rf"fog\.npy: expected integers from 0 to 9 as labels, found {found}$"):
        open_cifar_c(folder, ["fog"], [1])


@pytest.mark.parametrize("count", [0, 5, 7])
def test_batch_with_another_number_of_labels_is_refused(tmp_path, count):
    batch = {b"data": random_pixels(6).reshape(6, -1), b"labels": [1] * count}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(UserError, match=rf"test_batch: expected .* found 6 images and labels \[{count}\]"):
        open_cifar(str(tmp_path))
