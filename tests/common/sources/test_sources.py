import errno
import io
import os
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ImageFailure, Reason, UserError
from common.sources import Source, absolute_location, open_source
from common.sources.listing import LISTING_SCHEMA, ImageRef, ListingBuilder, class_folder
from common.sources.local import LocalSource
from tests.support.data.pictures import jpeg, write

IMAGES = {f"{folder}/{name}.jpg": jpeg(seed=seed) for seed, (folder, name) in enumerate(["ax", "bx", "by", "cz"])}
ODD_NAMES = [
    "a b/c d.jpg",
    "v1.2/x.y.z.JPEG",
    "ünïcode/写真.png",
    'it\'s/"quoted".jpg',
    "<script>/<script>alert(1)<.jpg",
    "new\nline/tab\t.jpg",
    "back\\slash/%20&?#.jpg",
    "-rf/--help.jpg",
    "deep/er/and/deeper/.jpg.jpg",
    "upper/CASE.JPG",
]
SPARSE_FORMATS = ["--format=gnu", *(f"--format=pax --sparse-version={version}" for version in ("0.0", "0.1", "1.0"))]


def tar_bytes(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def sparse_tar(folder: Path, form: str, names: list[str]) -> Path:
    """Pack files of a folder into "packed.tar" with GNU tar, which stores the holes of sparse files only as a list."""
    path = folder / "packed.tar"
    options = [*form.split(), "--sparse", "--hole-detection=raw"]
    subprocess.run(["tar", *options, "--create", "--file", path, *names], cwd=folder, check=True)
    with tarfile.open(path) as tar:
        assert any(header.issparse() for header in tar)
    return path


def gnu_tar(folder: Path, option: str, *names: str) -> bytes:
    """Create or extend (--create or --append) "packed.tar" in a folder with GNU tar, and return its content."""
    subprocess.run(["tar", option, "--file", "packed.tar", *names], cwd=folder, check=True)
    return (folder / "packed.tar").read_bytes()


def write_with_hole(path: Path, content: bytes) -> None:
    """Write a file that has a hole of a megabyte between two copies of the content."""
    with path.open("wb") as file:
        file.write(content)
        file.seek(1 << 20)
        file.write(content)


def list_refs(source: Source) -> list[ImageRef]:
    return [ImageRef(**row) for row in source.list().table.to_pylist()]


def list_uris(source: Source) -> list[str]:
    return source.list().table["uri"].to_pylist()


def read_all(source: Source) -> dict[str, bytes]:
    return {image.uri: source.read(image) for image in list_refs(source)}


def failure_reason(source: Source, image: ImageRef) -> Reason:
    with pytest.raises(ImageFailure) as failure:
        source.read(image)
    return failure.value.reason


def test_class_folders_are_listed_and_read(tmp_path: Path) -> None:
    assert read_all(open_source(str(write(tmp_path, IMAGES)))) == IMAGES


def test_a_flat_folder_is_listed_without_classes(tmp_path: Path) -> None:
    write(tmp_path, {"b.jpg": b"2", "a.png": b"1"})
    assert list_uris(LocalSource(tmp_path)) == ["a.png", "b.jpg"]
    assert class_folder("a.png") is None


def test_nested_folders_are_listed_in_byte_order(tmp_path: Path) -> None:
    names = ["z.jpg", "a/z.jpg", "a/b/c/d/e.jpg", "a.jpg", "a-b/x.jpg", "Z/x.jpg", "é/x.jpg", "a/b.jpg"]
    write(tmp_path, dict.fromkeys(names, b"x"))
    assert list_uris(LocalSource(tmp_path)) == sorted(names, key=str.encode)


def test_a_listing_holds_sizes_and_no_container_for_files(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"123", "empty.jpg": b""})
    assert list_refs(LocalSource(tmp_path)) == [ImageRef("a.jpg", 3, None, 0), ImageRef("empty.jpg", 0, None, 0)]


@pytest.mark.slow
def test_a_class_folder_with_100_000_files_is_listed_in_seconds(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:  # pytest would keep the files of three test runs
        folder = Path(name) / "n00000001"
        for index in range(100_000):
            if index % 50_000:  # a file can have 65,000 links in ext4
                os.link(folder / f"{index - 1:06}.jpg", folder / f"{index:06}.jpg")
            else:
                write(folder, {f"{index:06}.jpg": jpeg()})
        start = time.monotonic()
        uris = list_uris(LocalSource(Path(name)))
        assert time.monotonic() - start < 30  # 0.4 s on an idle machine
        assert uris == [f"n00000001/{index:06}.jpg" for index in range(100_000)]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_listed_and_read(name: str, tmp_path: Path) -> None:
    write(tmp_path / "folder", {name: b"content"})
    assert read_all(LocalSource(tmp_path / "folder")) == {name: b"content"}
    (tmp_path / "images.tar").write_bytes(tar_bytes({name: b"content"}))
    assert read_all(LocalSource(tmp_path / "images.tar")) == {name: b"content"}


def test_equal_names_in_different_folders_are_different_images(tmp_path: Path) -> None:
    files = {"a/x.jpg": b"1", "b/x.jpg": b"2", "a/b/x.jpg": b"3", "a/x.png": b"4"}
    assert read_all(LocalSource(write(tmp_path, files))) == files


def test_files_without_an_image_extension_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["a.jpg", "a.txt", "b/c.TXT", "README", ".hidden", "x.jpg.part", "._a.jpg"], b"x"))
    listing = LocalSource(tmp_path).list()
    assert listing.table["uri"].to_pylist() == ["a.jpg"]
    assert listing.skipped == {".txt": 2, "no extension": 2, ".part": 1, ".jpg": 1}


def test_metadata_files_of_macos_are_skipped_in_a_tar_too(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes({"a/x.jpg": b"x", "a/._x.jpg": b"x", "a/notes.txt": b"x"}))
    listing = LocalSource(path).list()
    assert listing.table["uri"].to_pylist() == ["a/x.jpg"]
    assert listing.skipped == {".jpg": 1, ".txt": 1}


def test_an_empty_folder_gives_an_empty_listing(tmp_path: Path) -> None:
    assert LocalSource(tmp_path).list().table.num_rows == 0


def test_a_folder_named_like_an_image_or_a_tar_is_listed_as_a_folder(tmp_path: Path) -> None:
    files = {"x.jpg/y.jpg": b"1", "z.tar/y.jpg": b"2"}
    assert read_all(LocalSource(write(tmp_path, files))) == files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_yields_the_same_images_as_the_folder_that_it_was_made_from(form: int, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes(IMAGES, form))
    assert read_all(open_source(str(path))) == IMAGES
    assert {image.container for image in list_refs(LocalSource(path))} == {"images.tar"}


def test_long_names_in_a_tar_are_read(tmp_path: Path) -> None:
    path, name = tmp_path / "images.tar", f"{'folder/' * 30}{'x' * 150}.jpg"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path.write_bytes(tar_bytes({name: b"content"}, form))
        assert read_all(LocalSource(path)) == {name: b"content"}


def test_uris_in_a_tar_inside_a_folder_begin_with_the_name_of_the_tar(tmp_path: Path) -> None:
    write(tmp_path, {"part/n01.tar": tar_bytes({"x.jpg": b"1"}), "y/x.jpg": b"2"})
    assert read_all(LocalSource(tmp_path)) == {"part/n01.tar/x.jpg": b"1", "y/x.jpg": b"2"}
    assert class_folder("part/n01.tar/x.jpg") == "n01"


def test_a_tar_of_tars_like_imagenets_own_file_is_read(tmp_path: Path) -> None:
    inner = {f"n0{i}.tar": tar_bytes({f"n0{i}_{j}.JPEG": jpeg(seed=10 * i + j) for j in range(3)}) for i in range(3)}
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar_bytes(inner))
    expected = {f"n0{i}.tar/n0{i}_{j}.JPEG": jpeg(seed=10 * i + j) for i in range(3) for j in range(3)}
    assert read_all(LocalSource(path)) == expected
    assert {class_folder(uri) for uri in expected} == {"n00", "n01", "n02"}


def test_three_levels_of_nested_tars_are_read(tmp_path: Path) -> None:
    path = tmp_path / "outer.tar"
    path.write_bytes(tar_bytes({"m.tar": tar_bytes({"pad.txt": b"x", "i.tar": tar_bytes({"x.jpg": b"deep"})})}))
    assert read_all(LocalSource(path)) == {"m.tar/i.tar/x.jpg": b"deep"}


@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_sparse_files_in_a_tar_are_skipped_and_counted(form: str, tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"1" * 700, "z.jpg": b"2" * 900})
    write_with_hole(tmp_path / "hole.jpg", b"3" * 5000)
    write_with_hole(tmp_path / "hole.tar", tar_bytes({"x.jpg": b"4"}))
    source = LocalSource(sparse_tar(tmp_path, form, ["a.jpg", "hole.jpg", "hole.tar", "z.jpg"]))
    assert read_all(source) == {"a.jpg": b"1" * 700, "z.jpg": b"2" * 900}
    assert source.list().skipped == {"sparse files in tars": 2}


@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_sparse_files_in_an_inner_tar_are_skipped_and_counted(form: str, tmp_path: Path) -> None:
    """The last file of the inner tar is sparse: its size is that of the whole file, larger than the rest of the tar."""
    write(tmp_path, {"a.jpg": b"1" * 700})
    write_with_hole(tmp_path / "hole.jpg", b"3" * 5000)
    inner = sparse_tar(tmp_path, form, ["a.jpg", "hole.jpg"]).read_bytes()
    path = tmp_path / "outer.tar"
    path.write_bytes(tar_bytes({"inner.tar": inner, "z.jpg": b"2" * 900}))
    source = LocalSource(path)
    assert read_all(source) == {"inner.tar/a.jpg": b"1" * 700, "z.jpg": b"2" * 900}
    assert source.list().skipped == {"sparse files in tars": 1}


def test_images_in_a_real_tar_equal_those_that_tarfile_reads(shared_data: Path) -> None:
    path = shared_data / "cifar10-test.tar"
    images = list_refs(LocalSource(path))
    assert len(images) == 10_000
    assert len({class_folder(image.uri) for image in images}) == 10
    with tarfile.open(path) as tar:
        for image in images[::2500]:
            assert LocalSource(path).read(image) == tar.extractfile(image.uri).read()


@given(st.dictionaries(st.from_regex(r"[a-d]{1,2}/[a-d]{1,3}\.jpg", fullmatch=True), st.binary(max_size=1500)))
def test_offsets_into_a_tar_read_back_what_was_stored(tmp_path_factory: pytest.TempPathFactory, files) -> None:
    path = tmp_path_factory.mktemp("tar") / "images.tar"
    path.write_bytes(tar_bytes(files))
    assert read_all(LocalSource(path)) == files


def test_names_that_are_not_utf_8_are_listed_escaped_and_missing_when_read(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    source = LocalSource(tmp_path)
    [image] = list_refs(source)
    assert image.uri == "caf\\xe9.jpg"
    assert failure_reason(source, image) == Reason.MISSING


def test_names_in_a_tar_that_are_not_utf_8_are_listed_escaped_and_read(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes({os.fsdecode(b"caf\xe9.jpg"): b"x"}, tarfile.GNU_FORMAT))
    assert read_all(LocalSource(path)) == {"caf\\xe9.jpg": b"x"}


def test_names_in_a_tar_that_look_like_paths_or_html_are_plain_names(tmp_path: Path) -> None:
    names = ["../../up.jpg", "/etc/absolute.jpg", "a/<script>alert(1)<.jpg"]
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name in names:
            header = tarfile.TarInfo(name)
            header.size = len(name)
            tar.addfile(header, io.BytesIO(name.encode()))
    source = LocalSource(tmp_path / "images.tar")
    assert {source.read(image).decode() for image in list_refs(source)} == set(names)
    assert [path.name for path in tmp_path.iterdir()] == ["images.tar"]


def test_symbolic_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path, {"elsewhere/x.jpg": b"1", "images/y.jpg": b"2"})
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "z.jpg").symlink_to(tmp_path / "elsewhere" / "x.jpg")
    assert read_all(LocalSource(tmp_path / "images")) == {"linked/x.jpg": b"1", "y.jpg": b"2", "z.jpg": b"1"}


def test_a_cycle_of_symbolic_links_is_listed_once(tmp_path: Path) -> None:
    write(tmp_path, {"a/x.jpg": b"1", "b/y.jpg": b"2"})
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "itself").symlink_to("itself")
    (tmp_path / "b" / "here").symlink_to(".")
    assert {"a/x.jpg", "b/y.jpg"} <= set(list_uris(LocalSource(tmp_path)))
    assert len(list_uris(LocalSource(tmp_path))) == 2


def test_a_dangling_link_is_listed_and_missing_when_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to("absent.jpg")
    source = LocalSource(tmp_path)
    [image] = list_refs(source)
    assert failure_reason(source, image) == Reason.MISSING


def test_a_link_to_itself_is_listed_and_unreadable(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to("x.jpg")
    source = LocalSource(tmp_path)
    [image] = list_refs(source)
    assert failure_reason(source, image) == Reason.UNREADABLE


@pytest.mark.timeout(10)
def test_a_named_pipe_named_like_an_image_is_unreadable_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    source = LocalSource(tmp_path)
    [image] = list_refs(source)
    assert failure_reason(source, image) == Reason.UNREADABLE


@pytest.mark.timeout(10)
def test_a_named_pipe_named_like_a_tar_is_skipped_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    listing = LocalSource(tmp_path).list()
    assert listing.table.num_rows == 0
    assert listing.skipped == {".tar": 1}


def test_an_image_removed_after_the_listing_is_missing(tmp_path: Path) -> None:
    source = LocalSource(write(tmp_path, {"x.jpg": b"123"}))
    [image] = list_refs(source)
    (tmp_path / "x.jpg").unlink()
    assert failure_reason(source, image) == Reason.MISSING


@pytest.mark.parametrize("content", [b"", b"12", b"1234"])
def test_an_image_whose_size_differs_from_the_listing_has_changed(content: bytes, tmp_path: Path) -> None:
    source = LocalSource(write(tmp_path, {"x.jpg": b"123"}))
    [image] = list_refs(source)
    (tmp_path / "x.jpg").write_bytes(content)
    assert failure_reason(source, image) == Reason.CHANGED


def test_an_image_that_became_a_folder_is_unreadable(tmp_path: Path) -> None:
    source = LocalSource(write(tmp_path, {"x.jpg": b"123"}))
    [image] = list_refs(source)
    (tmp_path / "x.jpg").unlink()
    (tmp_path / "x.jpg").mkdir()
    assert failure_reason(source, image) == Reason.UNREADABLE


@pytest.mark.parametrize("name", ["ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EIO"])
def test_an_error_of_the_machine_is_no_failure_of_the_image(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LocalSource(write(tmp_path, {"x.jpg": b"123"}))
    [image] = list_refs(source)

    def fail(path: Path, flags: int) -> int:
        raise OSError(getattr(errno, name), "message")

    monkeypatch.setattr("common.sources.local.os.open", fail)
    with pytest.raises(ImageFailure if name == "EIO" else OSError):
        source.read(image)


def test_an_image_whose_folder_became_a_file_is_missing_or_unreadable(tmp_path: Path) -> None:
    source = LocalSource(write(tmp_path, {"a/x.jpg": b"123"}))
    [image] = list_refs(source)
    (tmp_path / "a" / "x.jpg").unlink()
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_bytes(b"")
    assert failure_reason(source, image) in (Reason.MISSING, Reason.UNREADABLE)


def test_images_of_a_tar_truncated_or_removed_after_the_listing_fail_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes(IMAGES))
    source = LocalSource(tmp_path)
    images = list_refs(source)
    path.write_bytes(tar_bytes(IMAGES)[: images[-1].offset + 100])
    assert source.read(images[0]) == next(iter(IMAGES.values()))
    assert failure_reason(source, images[-1]) == Reason.CHANGED
    path.unlink()
    assert failure_reason(source, images[0]) == Reason.MISSING


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_a_user_error_with_advice(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"images.tar.{compression}"
    with tarfile.open(path, f"w:{compression}"):
        pass
    with pytest.raises(UserError, match="unpack or decompress it first"):
        open_source(str(path))
    renamed = path.rename(tmp_path / "images.tar")
    with pytest.raises(UserError, match=r"images\.tar cannot be read as an uncompressed tar file"):
        open_source(str(renamed)).list()


@pytest.mark.parametrize("content", [b"", b"not a tar file", bytes(100), b"\xff" * 2048])
def test_a_damaged_tar_is_a_user_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(content)
    for location in (tmp_path, tmp_path / "images.tar"):
        with pytest.raises(UserError, match=r"images\.tar cannot be read as an uncompressed tar file"):
            open_source(str(location)).list()


def test_a_tar_truncated_inside_a_member_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes(IMAGES))
    last = max(list_refs(LocalSource(path)), key=lambda image: image.offset)
    for length in (last.offset + 1, last.offset + last.size - 1):
        path.write_bytes(tar_bytes(IMAGES)[:length])
        with pytest.raises(UserError, match=r"images\.tar cannot be read"):
            LocalSource(path).list()


@pytest.mark.parametrize("damage", ["truncated inside a header", "a header of noise"])
def test_a_tar_damaged_at_a_later_header_is_a_user_error(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    whole = tar_bytes(IMAGES, tarfile.USTAR_FORMAT)
    path.write_bytes(whole)
    header = max(image.offset for image in list_refs(LocalSource(path))) - 512
    path.write_bytes(
        whole[: header + 100] if "truncated" in damage else whole[:header] + b"?" * 512 + whole[header + 512 :]
    )
    with pytest.raises(UserError):
        LocalSource(path).list()


def test_an_inner_tar_without_an_end_marker_lists_no_image_twice(tmp_path: Path) -> None:
    path = tmp_path / "outer.tar"
    endless = tar_bytes({"x.jpg": b"1" * 512}, tarfile.USTAR_FORMAT)[:1024]
    path.write_bytes(tar_bytes({"inner.tar": endless, "y.jpg": b"2"}, tarfile.USTAR_FORMAT))
    assert list_uris(LocalSource(path)) == ["inner.tar/x.jpg", "y.jpg"]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({}, id="at the end"),
        pytest.param({"y.jpg": bytes(9000)}, id="before zeros"),
        pytest.param({"y.jpg": b"2" * 3000}, id="before an image"),
    ],
)
def test_an_inner_tar_truncated_inside_a_member_is_a_user_error(after: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "outer.tar"
    truncated = tar_bytes({"x.jpg": b"1" * 3000}, tarfile.USTAR_FORMAT)[:2000]
    path.write_bytes(tar_bytes({"inner.tar": truncated, **after}, tarfile.USTAR_FORMAT))
    with pytest.raises(UserError, match=r"outer\.tar cannot be read"):
        LocalSource(path).list()


def test_hard_links_in_a_tar_are_read_as_their_targets(tmp_path: Path) -> None:
    folder = write(tmp_path / "images", {"a.jpg": b"1" * 700, "blob": b"2", "c.tar": tar_bytes({"x.jpg": b"3"})})
    for target, name in {"a.jpg": "d.jpg", "blob": "e.jpg", "c.tar": "f.tar"}.items():
        os.link(folder / target, folder / name)
    (folder / "g.jpg").symlink_to("a.jpg")
    os.link(folder / "g.jpg", folder / "h.jpg", follow_symlinks=False)
    files = {"a.jpg": b"1" * 700, "c.tar/x.jpg": b"3", "d.jpg": b"1" * 700, "e.jpg": b"2", "f.tar/x.jpg": b"3"}
    content = gnu_tar(folder, "--create", *sorted(os.listdir(folder)))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert sum(header.islnk() for header in tar) == 4
    source = LocalSource(folder / "packed.tar")
    assert read_all(source) == files
    assert source.list().skipped == {"links in tars": 2, "no extension": 1}
    write(tmp_path, {"outer.tar": tar_bytes({"a.jpg": b"other", "in/inner.tar": content})})
    expected = {f"in/inner.tar/{name}": data for name, data in files.items()}
    assert read_all(LocalSource(tmp_path / "outer.tar")) == {"a.jpg": b"other"} | expected


def test_a_hard_link_in_a_tar_to_an_absent_file_is_skipped_and_counted(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x.jpg")
    header.type, header.linkname = tarfile.LNKTYPE, "absent.jpg"
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.addfile(header)
    listing = LocalSource(tmp_path / "images.tar").list()
    assert (listing.table.num_rows, listing.skipped) == (0, {"links in tars": 1})


def test_only_the_last_file_with_a_name_in_a_tar_is_listed(tmp_path: Path) -> None:
    """A hard link stays what its target was when the link was made, as it does when the tar is extracted."""
    write(tmp_path, {"a.jpg": b"old", "c.jpg": b"3", "d.tar": tar_bytes({"x.jpg": b"old", "y.jpg": b"old"})})
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    gnu_tar(tmp_path, "--create", "a.jpg", "b.jpg", "c.jpg", "d.tar")
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "c.jpg").unlink()
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    write(tmp_path, {"a.jpg": b"newer", "d.tar": tar_bytes({"x.jpg": b"new"})})
    gnu_tar(tmp_path, "--append", "a.jpg", "c.jpg", "d.tar")
    source = LocalSource(tmp_path / "packed.tar")
    assert read_all(source) == {"a.jpg": b"newer", "b.jpg": b"old", "d.tar/x.jpg": b"new"}
    assert list_uris(source) == ["a.jpg", "b.jpg", "d.tar/x.jpg"]
    assert source.list().skipped == {"replaced files in tars": 3, "links in tars": 1}


def test_a_location_is_made_absolute_only_if_it_is_a_local_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_location("images/a.tar") == str(tmp_path / "images/a.tar")
    for location in ("/data/images", "s3://bucket/images", "demo:photos"):
        assert absolute_location(location) == location


@pytest.mark.parametrize("location", ["gs://bucket/images", "https://example.org/x.tar"])
def test_an_unsupported_url_is_a_user_error(location: str) -> None:
    with pytest.raises(UserError, match="expected a local path or s3://"):
        open_source(location)


def test_a_missing_input_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        open_source(str(tmp_path / "absent"))


def test_a_single_image_as_input_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"expected a folder of images .*; name a folder or a \.tar file"):
        open_source(str(tmp_path / "x.jpg"))


def test_a_device_as_input_is_a_user_error() -> None:
    with pytest.raises(UserError):
        open_source("/dev/null").list()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("x.jpg", None),
        ("./x.jpg", None),
        ("cat/x.jpg", "cat"),
        ("train/cat/x.jpg", "cat"),
        ("n01.tar/x.jpg", "n01"),
        ("n01.tar/cat/x.jpg", "cat"),
        ("v1.2/x.jpg", "v1.2"),
    ],
)
def test_the_class_is_the_folder_or_tar_that_holds_the_image(uri: str, expected: str | None) -> None:
    assert class_folder(uri) == expected


def test_the_class_of_a_tar_in_upper_case_is_its_stem() -> None:
    assert class_folder("n01.TAR/x.jpg") == "n01"


def test_listing_does_not_depend_on_the_order_in_which_images_are_added() -> None:
    images = [ImageRef(f"{tar}/{number}.jpg", 5, f"{tar}.tar", 512 * number) for tar in "bca" for number in range(3)]
    images.append(ImageRef("alone.jpg", 7, None, 0))
    tables = []
    for ordered in (images, images[::-1]):
        builder = ListingBuilder(lambda count: None)
        builder.add(ordered)
        tables.append(builder.finish().table)
    assert tables[0].equals(tables[1])
    assert tables[0]["container"].combine_chunks().dictionary.to_pylist() == ["a.tar", "b.tar", "c.tar"]
    assert tables[0].schema == LISTING_SCHEMA
