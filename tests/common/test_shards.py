import hashlib
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from common.manifest import MapEncoder
from common.shards import (
    MEMBERS,
    Sample,
    SampleInfo,
    ShardWriter,
    decode_map,
    decode_points,
    encode_map,
    encode_points,
    read_located_samples,
    read_samples,
)
from tests.support.data.maps import read_chunks, smooth_map
from tests.support.data.pictures import encoded, jpeg, photograph

INFO = SampleInfo(
    source="n01/ünïcode.JPEG",
    wnid="n01",
    width=64,
    height=48,
    exif_orientation=1,
    source_sha256="0" * 64,
    reencoded_from="",
    teacher="attention-center@8968fe8266a3",
    map_max=0.25,
    gaze_points=2,
)
keys = st.from_regex(r"[0-9]{9}", fullmatch=True)
members = st.dictionaries(st.sampled_from(MEMBERS), st.binary(max_size=1200), min_size=1)


def make_sample(key: str = "000000000", jpeg_bytes: bytes | None = jpeg(), class_index: int | None = 7) -> Sample:
    attention = np.arange(64, dtype=np.uint8).reshape(8, 8)
    return Sample(key, jpeg_bytes, class_index, INFO, attention, np.array([[0.5, 0.25, 1]], np.float32))


def write_shard(samples: list[tuple[str, dict[str, bytes]]]) -> bytes:
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, files in samples:
        writer.add(key, files)
    writer.close()
    return file.getvalue()


def read_headers(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        return tar.getmembers()


def test_members_are_in_the_documented_order() -> None:
    assert tuple(make_sample().members()) == MEMBERS == ("jpg", "cls", "json", "attn.png", "gaze.npy")


def test_samples_without_image_or_class_lack_these_members() -> None:
    assert tuple(make_sample(jpeg_bytes=None).members()) == MEMBERS[1:]
    assert tuple(make_sample(class_index=None).members()) == ("jpg", "json", "attn.png", "gaze.npy")
    assert make_sample(class_index=0).members()["cls"] == b"0"


def test_members_have_the_documented_content() -> None:
    files = make_sample().members()
    assert files["jpg"] == jpeg()
    assert files["cls"] == b"7"
    assert json.loads(files["json"]) == INFO.model_dump()
    assert (np.asarray(Image.open(io.BytesIO(files["attn.png"]))) == make_sample().attention).all()
    assert (np.load(io.BytesIO(files["gaze.npy"]), allow_pickle=False) == make_sample().gaze).all()


def test_json_is_canonical() -> None:
    content = make_sample().members()["json"]
    assert (
        content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    assert "ünïcode".encode() in content


def test_json_and_points_have_these_bytes() -> None:
    """Shards that earlier versions wrote have them too; with other bytes, no stopped run could be resumed."""
    files = make_sample().members()
    assert files["json"].decode() == (
        '{"exif_orientation":1,"gaze_points":2,"height":48,"map_max":0.25,"reencoded_from":"","schema_version":"1.0",'
        f'"source":"n01/ünïcode.JPEG","source_sha256":"{"0" * 64}","teacher":"attention-center@8968fe8266a3",'
        '"width":64,"wnid":"n01"}'
    )
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }"
    values = struct.pack("<fff", 0.5, 0.25, 1)
    assert files["gaze.npy"] == b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + values


@given(st.dictionaries(keys, members))
def test_writer_writes_the_same_bytes_as_tarfile(samples) -> None:
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples.items():
            for extension, content in files.items():
                header = tarfile.TarInfo(f"{key}.{extension}")
                header.size, header.mode = len(content), 0o444
                tar.addfile(header, io.BytesIO(content))
    assert write_shard(list(samples.items())) == expected.getvalue()


def test_headers_contain_no_time_owner_or_mode_of_the_machine() -> None:
    for header in read_headers(write_shard([("000000004", make_sample().members())])):
        assert (header.mtime, header.uid, header.gid, header.uname, header.gname) == (0, 0, 0, "", "")
        assert header.mode == 0o444
        assert header.isreg()
        assert header.pax_headers == {}


def test_headers_are_ustar_of_512_bytes() -> None:
    content = write_shard([("000000004", make_sample().members())])
    members_read = read_headers(content)
    assert all(content[header.offset + 257 : header.offset + 265] == b"ustar\x0000" for header in members_read)
    assert all(header.offset_data - header.offset == 512 for header in members_read)


def test_members_are_contiguous_and_named_by_key_and_extension() -> None:
    content = write_shard([(key, make_sample().members()) for key in ("000000009", "000000010")])
    assert [header.name for header in read_headers(content)] == [
        f"{key}.{extension}" for key in ("000000009", "000000010") for extension in MEMBERS
    ]


@given(st.dictionaries(keys, members))
def test_read_samples_returns_what_was_written(samples) -> None:
    content = write_shard(list(samples.items()))
    assert list(read_samples(io.BytesIO(content))) == list(samples.items())


@given(st.dictionaries(keys, members))
def test_writer_reports_checksum_size_and_number_of_samples(samples) -> None:
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, files in samples.items():
        writer.add(key, files)
    writer.close()
    assert writer.sha256 == hashlib.sha256(file.getvalue()).hexdigest()
    assert writer.bytes == len(file.getvalue())
    assert writer.samples == len(samples)
    assert not file.closed


def test_writer_accepts_a_write_only_file(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:
        writer = ShardWriter(file)
        writer.add("000000000", make_sample().members())
        writer.close()
    assert (tmp_path / "x.tar").read_bytes() == write_shard([("000000000", make_sample().members())])


def test_webdataset_reads_the_samples(tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_bytes(
        write_shard([(f"{key:09d}", make_sample().members()) for key in range(3)])
    )
    dataset = webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False)
    read = list(dataset)
    assert [item["__key__"] for item in read] == ["000000000", "000000001", "000000002"]
    assert all(item[extension] == content for item in read for extension, content in make_sample().members().items())


@pytest.mark.parametrize("damage", [b"", b"text", bytes(100), b"\xff" * 1024])
def test_reading_anything_but_a_tar_raises(damage: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        list(read_samples(io.BytesIO(damage)))


def test_reading_a_shard_truncated_inside_a_member_raises() -> None:
    content = write_shard([(f"{key:09d}", make_sample().members()) for key in range(2)])
    jpg = read_headers(content)[5]
    assert jpg.size > 512
    with pytest.raises(tarfile.ReadError):
        list(read_samples(io.BytesIO(content[: jpg.offset_data + 600])))


@pytest.mark.parametrize("damage", ["cut inside a header", "a header of noise"])
def test_reading_a_shard_with_a_damaged_later_header_raises(damage: str) -> None:
    content = write_shard([(f"{key:09d}", make_sample().members()) for key in range(2)])
    start = read_headers(content)[5].offset
    damaged = content[: start + 100] if "cut" in damage else content[:start] + b"?" * 512 + content[start + 512 :]
    with pytest.raises(tarfile.ReadError):
        list(read_samples(io.BytesIO(damaged)))


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.sampled_from(["isal", "pillow", None]))
def test_decode_map_inverts_encode_map(attention, encoder) -> None:
    decoded = decode_map(encode_map(attention, encoder))
    assert decoded.dtype == np.uint8
    assert (decoded == attention).all()


@pytest.mark.parametrize("size", [8, 50, 224, 500])
@pytest.mark.parametrize("encoder", ["pillow", None])
def test_map_of_earlier_versions_has_the_bytes_that_pillow_writes_at_compression_level_1(
    size: int, encoder: MapEncoder | None
) -> None:
    attention = smooth_map(size)
    assert encode_map(attention, encoder) == encoded(Image.fromarray(attention), "PNG", compress_level=1)


def test_pillows_map_is_a_png_of_the_fastest_compression_with_adaptive_filters_and_without_metadata() -> None:
    content = encode_map(smooth_map(224), "pillow")
    chunks = read_chunks(content)
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 224, 224, 8, 0, 0, 0, 0)  # 8-bit gray, not interlaced
    assert chunks[b"IDAT"][1] >> 6 == 0  # RFC 1950, FLEVEL: "compressor used fastest algorithm", levels 0 and 1
    assert 224 * 224 / 10 < len(content) < 224 * 224 / 3  # level 0 stores all 224 * 224 bytes
    filters = zlib.decompress(chunks[b"IDAT"])[:: 224 + 1]
    assert len(set(filters)) > 1
    assert filters.count(0) < 224 / 10  # without filters, a smooth map takes a quarter more bytes


@pytest.mark.parametrize(
    "content",
    [
        encoded(photograph(), "PNG"),
        encoded(photograph().convert("L"), "JPEG"),
        encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"),
        b"text",
    ],
    ids=["color", "JPEG", "16 bit", "text"],
)
def test_decode_map_rejects_anything_but_a_gray_png(content: bytes) -> None:
    with pytest.raises((ValueError, OSError)):
        decode_map(content)


@given(arrays(np.float32, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats(0, 1, width=32)))
def test_decode_points_inverts_encode_points(points) -> None:
    content = encode_points(points)
    decoded = decode_points(content)
    assert decoded.dtype == np.float32
    assert (decoded == points).all()
    assert decoded.shape == points.shape
    assert content[:8] == b"\x93NUMPY\x01\x00"


def test_points_are_stored_as_float32_in_row_order() -> None:
    points = np.asfortranarray(np.random.default_rng(0).random((4, 3)))
    header = encode_points(points)[10:128].decode()
    assert "'<f4'" in header
    assert "'fortran_order': False" in header


def test_decode_points_rejects_pickled_objects() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        decode_points(buffer.getvalue())


@pytest.mark.parametrize(
    ("field", "value"),
    [("exif_orientation", 0), ("exif_orientation", 9), ("width", 0), ("source_sha256", "abc"), ("gaze_points", -1)],
)
def test_sample_info_rejects_invalid_values(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SampleInfo(**{**INFO.model_dump(), field: value})


@given(st.lists(members, min_size=1, max_size=4))
def test_ranges_of_writer_and_reader_hold_the_content_of_the_members(samples: list[dict[str, bytes]]) -> None:
    file = io.BytesIO()
    writer = ShardWriter(file)
    written = {f"{index:09d}": writer.add(f"{index:09d}", files) for index, files in enumerate(samples)}
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        expected = {header.name: (header.offset_data, header.size) for header in tar}
    assert {f"{key}.{name}": place for key, ranges in written.items() for name, place in ranges.items()} == expected
    read = {key: (files, ranges) for key, files, ranges in read_located_samples(file)}
    assert {key: ranges for key, (_, ranges) in read.items()} == written
    assert [files for files, _ in read.values()] == samples
