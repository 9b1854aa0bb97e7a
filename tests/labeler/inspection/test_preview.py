"""Tests of the preview page, on data sets made of noise images."""

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
from labeler.inspection import survey
from labeler.inspection.preview_page import EXTREMES
from labeler.preview import main, write_preview
from labeler.publishing.outcome import read_records
from labeler.publishing.publish import make_manifest
from tests.common.page.test_page import HOSTILE, ParsedMarkup

ROOT = Path(__file__).resolve().parents[3]
TEACHER = Teacher(name="tests", sha256=hashlib.sha256(b"teacher").hexdigest())
SECTIONS = ["Random samples", "Extremes", "Distributions", "Failed images"]


def make_sample(index: int, source: str, include_images: bool = True, orientation: int = 1) -> Sample:
    """Make a sample with a noise image, a Gaussian blob as its map, and `index % 5` gaze points."""
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


def make_failure(index: int, reason: Reason) -> Failure:
    return Failure(key=f"{index:09d}", uri=f"in/{index}.jpg", reason=reason, message=f"message {index}")


def commit(storage: LocalStorage, shard: int, samples: list[Sample], failed: list[Failure]) -> None:
    """Write a shard and its record, as a labeling worker does."""
    with storage.scratch() as file:
        writer = ShardWriter(file)
        for sample in samples:
            writer.add(sample.key, sample.members())
        writer.close()
        storage.put_file(shard_name(shard), file)
    written = {"shard": shard_name(shard), "sha256": writer.sha256, "bytes": writer.bytes, "samples": writer.samples}
    failures = {"failures": Counter(failure.reason for failure in failed), "failed": failed}
    record = ShardRecord(**written, **failures, seconds={}, host="tests", device="cpu", attempt=1)
    storage.put(record_name(shard), record.to_json())


def make_dataset(
    root: Path, images: int = 12, shards: int = 3, committed: int | None = None, source: str = "a.jpg", **options: Any
) -> LocalStorage:
    """Make a data set with one failed image per shard: its first `committed` shards, or all shards and the manifest."""
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
        samples = [make_sample(index, f"{index}/{source}", **options) for index in range(start, start + sizes[shard])]
        start += sizes[shard]
        commit(storage, shard, samples, [make_failure(images + shard, list(Reason)[shard % 2])])
    if committed is None:
        plans = [Plan.model_validate_json(storage.read(PLAN))]
        storage.put(MANIFEST, make_manifest(storage, plans, read_records(storage, plans)).to_json())
    return storage


def read_preview(root: Path, **options: int) -> str:
    """Write the preview of a data set and return it, after checks that it is well-formed and loads nothing."""
    path = root.parent / "page.html"
    write_preview(str(root), path, **options)
    content = path.read_text("utf-8")
    markup = ParsedMarkup(content)
    assert not markup.open_tags
    assert [text for text in markup.texts if text in SECTIONS] == SECTIONS
    assert not re.search("https?://", content)
    links = [value for name, value in markup.attributes if name in ("src", "href")]
    assert all(link.startswith("data:image/") for link in links)
    return content


def tile(content: str, name: str) -> str:
    """Return the value of a tile of the page."""
    texts = ParsedMarkup(content).texts
    return texts[texts.index(name) + 1]


def test_page_of_a_complete_data_set_states_its_numbers(tmp_path):
    make_dataset(tmp_path / "data")
    content = read_preview(tmp_path / "data")
    numbers = {name: tile(content, name) for name in ("planned", "written", "failed", "shards", "classes", "state")}
    assert list(numbers.values()) == ["15", "12", "3", "3 of 3", "1", "complete"]
    assert tile(content, "teacher") == TEACHER.id
    assert "From 12 of 12 samples, in 3 of 3 shards." in content
    assert 'class="notes"' not in content


def test_every_random_sample_has_image_map_points_and_caption(tmp_path):
    make_dataset(tmp_path / "data")
    random_part = read_preview(tmp_path / "data", samples=12).split("Extremes</h2>")[0]
    assert random_part.count('class="photograph"') == random_part.count('class="heat"') == 12
    assert random_part.count('class="point"') == sum(index % 5 for index in range(12))
    caption = "97 × 60 · class 0: n01440764 · 2 points · map_max 0.57 · area "
    assert caption in random_part.replace("\N{NO-BREAK SPACE}", " ")


def test_extremes_are_the_samples_with_the_extreme_values(tmp_path):
    make_dataset(tmp_path / "data")
    content = read_preview(tmp_path / "data")
    parts = dict(zip(EXTREMES, re.split("<h3>.*?</h3>", content)[1:], strict=True))
    maxima = {title: re.findall(r"map_max\N{NO-BREAK SPACE}([\d.]+)", part) for title, part in parts.items()}
    assert maxima["Highest maximum before normalization"] == ["0.61", "0.6", "0.59", "0.58"]
    assert maxima["Lowest maximum before normalization"] == ["0.5", "0.51", "0.52", "0.53"]
    points = re.findall(r"(\d+)\N{NO-BREAK SPACE}points?", parts["Most gaze points"])
    assert points == ["4", "4", "3", "3"]
    assert re.findall(r"<b>(\d+)/", parts["Most concentrated map"])[0] == "0"


def test_the_same_seed_chooses_the_same_samples(tmp_path):
    make_dataset(tmp_path / "data")
    assert read_preview(tmp_path / "data", samples=4) == read_preview(tmp_path / "data", samples=4)
    assert read_preview(tmp_path / "data", samples=4) != read_preview(tmp_path / "data", samples=4, seed=1)


def test_an_unfinished_data_set_shows_what_is_committed(tmp_path):
    make_dataset(tmp_path / "data", committed=1)
    content = read_preview(tmp_path / "data")
    assert (tile(content, "state"), tile(content, "shards"), tile(content, "written")) == ("unfinished", "1 of 3", "4")


@pytest.mark.parametrize("kind", ["planned only", "a shard of failures"])
def test_an_empty_data_set_has_a_page(tmp_path, kind):
    storage = make_dataset(tmp_path / "data", committed=0)
    if kind == "a shard of failures":
        commit(storage, 0, [], [make_failure(0, Reason.EMPTY)])
    content = read_preview(tmp_path / "data")
    assert "No samples to show." in content
    assert "From 0 of 0 samples" in content
    assert tile(content, "written") == "0"


def test_a_label_only_data_set_shows_the_maps(tmp_path):
    make_dataset(tmp_path / "data", include_images=False)
    content = read_preview(tmp_path / "data")
    assert 'class="photograph"' not in content
    assert 'class="heat"' in content
    assert 'class="point"' in content


def test_markup_in_file_names_is_escaped(tmp_path):
    make_dataset(tmp_path / HOSTILE.replace("/", ""), source=HOSTILE.replace("/", ""))
    markup = ParsedMarkup(read_preview(tmp_path / HOSTILE.replace("/", "")))
    assert not {"script", "img"} & set(markup.tags)
    assert not [name for name, _ in markup.attributes if name.startswith("on")]
    assert any("<script>alert(1)<script>" in text for text in markup.texts)


def test_images_with_an_exif_orientation_are_shown_upright(tmp_path):
    make_dataset(tmp_path / "data", images=1, shards=1, orientation=6)
    content = read_preview(tmp_path / "data")
    assert 'viewBox="0 0 213 320"' in content
    assert "EXIF\N{NO-BREAK SPACE}orientation\N{NO-BREAK SPACE}6" in content


def test_failures_are_listed_by_reason_with_a_few_examples(tmp_path):
    storage = make_dataset(tmp_path / "data", committed=0)
    commit(storage, 0, [], [make_failure(index, Reason.TRUNCATED) for index in range(10)])
    content = read_preview(tmp_path / "data")
    assert tile(content, "truncated") == "10"
    assert [text for text in ParsedMarkup(content).texts if "message " in text] == [
        "message 0",
        "message 1",
        "message 2",
    ]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(marker: bytes, length: int) -> Callable[[Path], None]:
    """Return a function that overwrites the first `length` bytes of a file from `marker` on."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        start = content.index(marker)
        content[start : start + length] = b"x" * length
        path.write_bytes(content)

    return damage


DAMAGES = {
    "cut short": cut_short,
    "gone": Path.unlink,
    "header": overwrite(b"000000005.json", 512),
    "map": overwrite(b"IHDR", 20),
    "points": overwrite(b"\x93NUMPY", 6),
    "image": overwrite(b"\xff\xd8\xff", 20),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_reported_and_the_others_are_shown(tmp_path, damage):
    make_dataset(tmp_path / "data")
    DAMAGES[damage](tmp_path / "data" / shard_name(1))
    content = read_preview(tmp_path / "data")
    notes = ParsedMarkup(content.split('class="notes">')[1].split("</ul>")[0]).texts
    assert len(notes) == 1
    assert notes[0].startswith("train-000001.tar: ")
    assert all(f"<b>{index}/" in content for index in (0, 3, 8, 11))


def test_a_damaged_record_is_reported(tmp_path):
    make_dataset(tmp_path / "data")
    (tmp_path / "data" / record_name(0)).write_bytes(b'{"shard": 3')
    content = read_preview(tmp_path / "data")
    assert "records/train-000000.json: " in content
    assert tile(content, "written") == "8"


def test_a_large_data_set_is_read_in_part_and_the_page_states_how_much(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "MAX_MEASURED_SHARDS", 2)
    monkeypatch.setattr(survey, "MAX_MEASURED_SAMPLES", 6)
    make_dataset(tmp_path / "data", images=20, shards=4)
    content = read_preview(tmp_path / "data")
    assert content.count("From 6 of 20 samples, in 2 of 4 shards.") == 2


def test_a_page_with_forty_samples_stays_below_3_mb(tmp_path):
    make_dataset(tmp_path / "data", images=40, shards=1)
    assert len(read_preview(tmp_path / "data", samples=40)) < 3e6


def test_a_folder_without_a_sound_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"found no plan\.json"):
        write_preview(str(tmp_path), tmp_path / "page.html")
    with pytest.raises(UserError, match=r"found no plan\.json"):
        write_preview(str(tmp_path / "nowhere"), tmp_path / "page.html")
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(UserError, match="is damaged or of another version"):
        write_preview(str(tmp_path), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_default_page_is_in_the_data_set(tmp_path, capsys):
    make_dataset(tmp_path / "data")
    assert main([str(tmp_path / "data")]) == 0
    assert (tmp_path / "data" / "preview.html").exists()
    assert capsys.readouterr().out == f"{tmp_path / 'data' / 'preview.html'}\n"
    assert main([str(tmp_path / "data"), "--to", str(tmp_path / "new" / "page.html"), "--samples", "2"]) == 0
    assert (tmp_path / "new" / "page.html").exists()


def test_a_negative_number_of_samples_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected 0 or more, found -1"):
        write_preview(str(tmp_path), tmp_path / "page.html", samples=-1)


def test_the_command_imports_neither_torch_nor_ray(tmp_path):
    code = "import sys, labeler.preview; sys.exit(bool({'torch', 'ray', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    command = [sys.executable, "-m", "labeler.preview", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"error: {tmp_path}: expected the folder of a data set, found no plan.json in it\n"
