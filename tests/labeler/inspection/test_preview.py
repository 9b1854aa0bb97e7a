import hashlib
import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import Reason, UserError
from common.manifest import MANIFEST, PLAN, Failure, Plan, ShardRecord, Teacher, record_name, shard_name, split_evenly
from common.shards import Sample, SampleInfo, ShardWriter
from common.storage import LocalStorage
from labeler import preview
from labeler.inspection import survey
from labeler.preview import main, map_area, write_preview
from labeler.publishing.outcome import read_records
from labeler.publishing.publish import make_manifest
from tests.common.page.test_page import HOSTILE, Reading

ROOT = Path(__file__).resolve().parents[3]
TEACHER = Teacher(name="tests", sha256=hashlib.sha256(b"teacher").hexdigest())
SECTIONS = ["Samples drawn at random", "Extremes", "Distributions", "Left out"]


def sample(index: int, source: str, include_images: bool = True, orientation: int = 1) -> Sample:
    """A made-up photograph under a blob of attention, with `index % 5` points."""
    rng = np.random.default_rng(index)
    width, height = 90 + index, 60
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "JPEG")
    y, x = np.mgrid[:32, :32] / 32
    blob = np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / (0.01 + index * 0.01))
    points = rng.uniform(0.2, 1, (index % 5, 3)).astype(np.float32)
    info = SampleInfo(
        source=source,
        wnid="n01440764",
        width=width,
        height=height,
        exif_orientation=orientation,
        source_sha256="0" * 64,
        reencoded_from="",
        teacher=TEACHER.id,
        map_max=0.5 + index / 100,
        gaze_points=len(points),
    )
    attention = (blob / blob.max() * 255).round().astype(np.uint8)
    return Sample(f"{index:09d}", buffer.getvalue() if include_images else None, 0, info, attention, points)


def failure(index: int, reason: Reason) -> Failure:
    return Failure(key=f"{index:09d}", uri=f"in/{index}.jpg", reason=reason, message=f"message {index}")


def commit(storage: LocalStorage, shard: int, samples: list[Sample], failed: list[Failure]) -> None:
    """Write a shard and its record, as a worker does."""
    with storage.scratch() as file:
        writer = ShardWriter(file)
        for one in samples:
            writer.add(one.key, one.members())
        writer.close()
        storage.put_file(shard_name(shard), file)
    written = {"shard": shard_name(shard), "sha256": writer.sha256, "bytes": writer.bytes, "samples": writer.samples}
    left_out = {"failures": Counter(one.reason for one in failed), "failed": failed}
    record = ShardRecord(**written, **left_out, seconds={}, host="tests", device="cpu", attempt=1)
    storage.put(record_name(shard), record.to_json())


def make_dataset(
    root: Path, images: int = 12, shards: int = 3, committed: int | None = None, source: str = "a.jpg", **kind: Any
) -> LocalStorage:
    """A data set whose first `committed` shards are there; all of them: complete. Each shard lacks one more image."""
    storage = LocalStorage(root)
    plan = Plan(
        input="in",
        config={"map_size": 224, "include_images": True},
        teacher=TEACHER,
        images=images + shards,
        shards=shards,
        classes=["n01440764"],
        **{"bytes": 0, "listing_sha256": "0" * 64, "fingerprint": "0" * 64},
    )
    storage.put(PLAN, plan.to_json())
    sizes, start = split_evenly(images, shards), 0
    for shard in range(shards if committed is None else committed):
        samples = [sample(index, f"{index}/{source}", **kind) for index in range(start, start + sizes[shard])]
        start += sizes[shard]
        commit(storage, shard, samples, [failure(images + shard, list(Reason)[shard % 2])])
    if committed is None:
        plans = [Plan.model_validate_json(storage.read(PLAN))]
        storage.put(MANIFEST, make_manifest(storage, plans, read_records(storage, plans)).to_json())
    return storage


def shown(root: Path, **options: int) -> str:
    """The page of a data set, checked to be whole and to fetch nothing."""
    path = root.parent / "page.html"
    write_preview(str(root), path, **options)
    content = path.read_text("utf-8")
    reading = Reading(content)
    assert not reading.open
    assert [text for text in reading.texts if text in SECTIONS] == SECTIONS
    assert not re.search("https?://", content)
    links = [value for name, value in reading.attributes if name in ("src", "href")]
    assert all(link.startswith("data:image/") for link in links)
    return content


def tile(content: str, name: str) -> str:
    texts = Reading(content).texts
    return texts[texts.index(name) + 1]


def test_a_complete_data_set_is_shown_with_all_its_numbers(tmp_path):
    make_dataset(tmp_path / "data")
    content = shown(tmp_path / "data")
    numbers = {name: tile(content, name) for name in ("planned", "written", "left out", "shards", "classes", "state")}
    assert list(numbers.values()) == ["15", "12", "3", "3 of 3", "1", "complete"]
    assert tile(content, "teacher") == TEACHER.id
    assert "From 12 of 12 samples, in 3 of 3 shards." in content
    assert 'class="notes"' not in content


def test_every_random_sample_has_picture_map_points_and_caption(tmp_path):
    make_dataset(tmp_path / "data")
    random_part = shown(tmp_path / "data", samples=12).split("Extremes</h2>")[0]
    assert random_part.count('class="photograph"') == random_part.count('class="heat"') == 12
    assert random_part.count('class="point"') == sum(index % 5 for index in range(12))
    caption = "97 × 60 · class 0: n01440764 · 2 points · map_max 0.57 · area "
    assert caption in random_part.replace("\N{NO-BREAK SPACE}", " ")


def test_extremes_are_the_extreme_ones(tmp_path):
    make_dataset(tmp_path / "data")
    content = shown(tmp_path / "data")
    parts = dict(zip(preview.EXTREMES, re.split("<h3>.*?</h3>", content)[1:], strict=True))
    maxima = {title: re.findall(r"map_max\N{NO-BREAK SPACE}([\d.]+)", part) for title, part in parts.items()}
    assert maxima["Highest maximum before normalising"] == ["0.61", "0.6", "0.59", "0.58"]
    assert maxima["Lowest maximum before normalising"] == ["0.5", "0.51", "0.52", "0.53"]
    points = re.findall(r"(\d+)\N{NO-BREAK SPACE}points?", parts["Most gaze points"])
    assert points == ["4", "4", "3", "3"]
    assert re.findall(r"<b>(\d+)/", parts["Most concentrated map"])[0] == "0"


def test_the_same_seed_draws_the_same_pictures(tmp_path):
    make_dataset(tmp_path / "data")
    assert shown(tmp_path / "data", samples=4) == shown(tmp_path / "data", samples=4)
    assert shown(tmp_path / "data", samples=4) != shown(tmp_path / "data", samples=4, seed=1)


def test_an_unfinished_data_set_shows_what_is_committed(tmp_path):
    make_dataset(tmp_path / "data", committed=1)
    content = shown(tmp_path / "data")
    assert (tile(content, "state"), tile(content, "shards"), tile(content, "written")) == ("unfinished", "1 of 3", "4")


@pytest.mark.parametrize("kind", ["planned only", "a shard of failures"])
def test_an_empty_data_set_has_a_page(tmp_path, kind):
    storage = make_dataset(tmp_path / "data", committed=0)
    if kind == "a shard of failures":
        commit(storage, 0, [], [failure(0, Reason.EMPTY)])
    content = shown(tmp_path / "data")
    assert "No samples to show." in content
    assert "From 0 of 0 samples" in content
    assert tile(content, "written") == "0"


def test_a_label_only_data_set_shows_the_maps(tmp_path):
    make_dataset(tmp_path / "data", include_images=False)
    content = shown(tmp_path / "data")
    assert 'class="photograph"' not in content
    assert 'class="heat"' in content
    assert 'class="point"' in content


def test_hostile_names_are_harmless(tmp_path):
    make_dataset(tmp_path / HOSTILE.replace("/", ""), source=HOSTILE.replace("/", ""))
    reading = Reading(shown(tmp_path / HOSTILE.replace("/", "")))
    assert not {"script", "img"} & set(reading.tags)
    assert not [name for name, _ in reading.attributes if name.startswith("on")]
    assert any("<script>alert(1)<script>" in text for text in reading.texts)


def test_turned_pictures_are_shown_upright(tmp_path):
    make_dataset(tmp_path / "data", images=1, shards=1, orientation=6)
    content = shown(tmp_path / "data")
    assert 'viewBox="0 0 213 320"' in content
    assert "EXIF\N{NO-BREAK SPACE}orientation\N{NO-BREAK SPACE}6" in content


def test_failures_are_listed_by_reason_with_a_few_examples(tmp_path):
    storage = make_dataset(tmp_path / "data", committed=0)
    commit(storage, 0, [], [failure(index, Reason.TRUNCATED) for index in range(10)])
    content = shown(tmp_path / "data")
    assert tile(content, "truncated") == "10"
    assert [text for text in Reading(content).texts if "message " in text] == ["message 0", "message 1", "message 2"]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(marker: bytes, length: int) -> Callable[[Path], None]:
    """Overwrite what begins with `marker`."""

    def overwrite(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at = content.index(marker)
        content[at : at + length] = b"x" * length
        path.write_bytes(content)

    return overwrite


DAMAGES = {
    "cut short": cut_short,
    "gone": Path.unlink,
    "header": spoil(b"000000005.json", 512),
    "map": spoil(b"IHDR", 20),
    "points": spoil(b"\x93NUMPY", 6),
    "picture": spoil(b"\xff\xd8\xff", 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_noted_and_the_others_are_shown(tmp_path, damage):
    make_dataset(tmp_path / "data")
    DAMAGES[damage](tmp_path / "data" / shard_name(1))
    content = shown(tmp_path / "data")
    notes = Reading(content.split('class="notes">')[1].split("</ul>")[0]).texts
    assert len(notes) == 1
    assert notes[0].startswith("train-000001.tar: ")
    assert all(f"<b>{index}/" in content for index in (0, 3, 8, 11))


def test_a_damaged_record_is_noted(tmp_path):
    make_dataset(tmp_path / "data")
    (tmp_path / "data" / record_name(0)).write_bytes(b'{"shard": 3')
    content = shown(tmp_path / "data")
    assert "records/train-000000.json: " in content
    assert tile(content, "written") == "8"


def test_a_large_data_set_is_read_in_part_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MOST_SHARDS", 2)
    monkeypatch.setattr(survey, "MOST_SAMPLES", 6)
    make_dataset(tmp_path / "data", images=20, shards=4)
    content = shown(tmp_path / "data")
    assert content.count("From 6 of 20 samples, in 2 of 4 shards.") == 2


def test_forty_pictures_stay_small(tmp_path):
    make_dataset(tmp_path / "data", images=40, shards=1)
    assert len(shown(tmp_path / "data", samples=40)) < 3e6


def test_without_a_plan_there_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"found no plan\.json"):
        write_preview(str(tmp_path), tmp_path / "page.html")
    with pytest.raises(UserError, match=r"found no plan\.json"):
        write_preview(str(tmp_path / "nowhere"), tmp_path / "page.html")
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(UserError, match="is damaged or of another version"):
        write_preview(str(tmp_path), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_page_lies_in_the_data_set_unless_told_otherwise(tmp_path, capsys):
    make_dataset(tmp_path / "data")
    assert main([str(tmp_path / "data")]) == 0
    assert (tmp_path / "data" / "preview.html").exists()
    assert capsys.readouterr().out == f"{tmp_path / 'data' / 'preview.html'}\n"
    assert main([str(tmp_path / "data"), "--to", str(tmp_path / "new" / "page.html"), "--samples", "2"]) == 0
    assert (tmp_path / "new" / "page.html").exists()


def test_a_negative_number_of_samples_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected 0 or more, found -1"):
        write_preview(str(tmp_path), tmp_path / "page.html", samples=-1)


def test_the_program_needs_neither_torch_nor_ray(tmp_path):
    code = "import sys, labeler.preview; sys.exit(bool({'torch', 'ray', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    command = [sys.executable, "-m", "labeler.preview", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"error: {tmp_path}: expected the folder of a data set, found no plan.json in it\n"


def test_the_area_of_a_map_is_its_perplexity():
    rng = np.random.default_rng(0)
    attention = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    weights = attention[attention > 0] / attention.sum(dtype=float)
    assert map_area(attention) == pytest.approx(np.exp(-(weights * np.log(weights)).sum()) / 256)
    assert map_area(np.full((8, 8), 7, np.uint8)) == pytest.approx(1)
    assert map_area(np.eye(1, 64, dtype=np.uint8).reshape(8, 8)) == pytest.approx(1 / 64)
    assert map_area(np.zeros((8, 8), np.uint8)) == 0
