"""Verification of a public copy, served by a web server in a thread, with faults that are planted on it."""

import io
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.manifest import canonical_json, sha256
from common.shards import read_samples
from common.sources import open_source
from common.storage import LocalStorage, http
from labeler.config import LabelConfig
from labeler.planning.generations import read_plans, save_later_plan
from labeler.planning.plan import make_plan
from labeler.verification.verify_copy import verify_copy
from labeler.verify import main
from tests.labeler.verification.test_verify import Members, change_json, change_map, rewrite
from tests.labeler.verification.test_verify_index import change_value
from tests.support.http_server import FileServer, serve_folder
from tests.support.jobs import TEACHER, photographs

SHARDS = 4
TAR = "train-000002.tar"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "backoff", lambda attempt: 0)


@pytest.fixture
def server(varied_dataset: Path, tmp_path: Path) -> Iterator[FileServer]:
    """Serve a copy of the data set."""
    with serve_folder(shutil.copytree(varied_dataset, tmp_path / "copy")) as server:
        yield server


def find_problems(server: FileServer) -> list[str]:
    report = verify_copy(server.url, workers=1)
    assert report["ok"] == (not report["problems"])
    return report["problems"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_sound_copy_has_no_problems(server: FileServer, varied_dataset: Path, ranges: bool) -> None:
    server.ranges = ranges
    manifest = json.loads((varied_dataset / "manifest.json").read_text())
    report = verify_copy(f"{server.url}/", workers=1)
    counts = {"shards": SHARDS, "samples": manifest["written"], "failures": manifest["failed"]}
    checked = {"shards": SHARDS, "samples": manifest["written"], "share": 1, "resumed": 0}
    surplus, unread = report.pop("unchecked")
    assert report == {"ok": True, "complete": True, **counts, "problems": [], "checked": checked}
    assert "an https server does not list its files" in surplus
    assert "plans" in unread
    assert not [path for path in server.paths() if path.startswith(("records", "plan", "listing"))]


def test_readers_need_only_the_manifest_and_the_shards(server: FileServer) -> None:
    for path in server.folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json" and path.suffix != ".tar":
            path.unlink()
    server.statuses["sizes.json"] = [403]  # what S3 answers for absent files of a bucket that may not be listed
    report = verify_copy(server.url, workers=1)
    assert (report["ok"], report["problems"]) == (True, [])
    absent = "files that are not there: sizes.json, failures.jsonl, classes.json, index.parquet"
    assert report["unchecked"][-1] == absent


def test_classes_are_compared_as_published_which_sorts_them_as_text(server: FileServer) -> None:
    """So "10" precedes "2"."""
    manifest = json.loads((server.folder / "manifest.json").read_text())
    (server.folder / "manifest.json").write_text(json.dumps(manifest | {"classes": 11}))
    (server.folder / "classes.json").write_bytes(canonical_json({str(index): f"n{index}" for index in range(11)}))
    assert not [problem for problem in find_problems(server) if problem.startswith("classes.json")]
    (server.folder / "classes.json").write_bytes(canonical_json({str(index): f"n{index}" for index in range(10)}))
    assert "classes.json: does not match manifest.json" in find_problems(server)


def truncate(server: FileServer) -> None:
    (server.folder / TAR).write_bytes((server.folder / TAR).read_bytes()[:-1000])


def flip_a_bit(server: FileServer) -> None:
    content = bytearray((server.folder / TAR).read_bytes())
    content[len(content) // 2] ^= 1
    (server.folder / TAR).write_bytes(content)


FAULTS: dict[str, tuple[Callable[[FileServer], Any], str]] = {
    "missing": (lambda server: (server.folder / TAR).unlink(), "is missing"),
    "truncated": (truncate, "bytes, manifest.json says"),
    "changed": (flip_a_bit, "its checksum is not the one in manifest.json"),
    "403": (lambda server: server.statuses.update({TAR: [403]}), "the server refuses access (HTTP 403)"),
    "500": (lambda server: server.statuses.update({TAR: [200, 500]}), "the server answers HTTP 500"),
    "interrupted": (lambda server: server.cut.update({TAR: 10}), "the connection ended with 10 bytes missing"),
    "circle": (lambda server: server.redirects.update({TAR: f"{server.url}/{TAR}"}), "infinite loop"),
    "other host": (lambda server: server.redirects.update({TAR: "http://127.0.0.1:9/x"}), "no complete answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_shard_is_reported_and_the_others_are_checked(server: FileServer, fault: str) -> None:
    plant, problem = FAULTS[fault]
    plant(server)
    problems = find_problems(server)
    assert all(found.startswith(f"{TAR}: ") for found in problems)
    assert problem in problems[0]
    if fault != "truncated":
        assert len(problems) == 1
    assert {f"train-{index:06d}.tar" for index in range(SHARDS) if index != 2} <= set(server.paths())


Samples = dict[str, Members]


def change_sample(change: Callable[[Members], None]) -> Callable[[Samples], Samples]:
    """Return a function that changes the fourth sample of a shard."""

    def edit(samples: Samples) -> Samples:
        change(samples[list(samples)[3]])
        return samples

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (change_sample(change_json(teacher="another@0")), r"sample \d{9}: labeled by another@0, planned tests@0+$"),
        (
            change_sample(change_map(lambda attention: attention // 2)),
            r"sample \d{9}: the map's maximum is 127, expected",
        ),
        (lambda samples: dict(reversed(samples.items())), r"found sample \d{9} after sample \d{9}, expected ascending"),
        (lambda samples: dict(list(samples.items())[1:]), r"\d+ samples, manifest\.json says \d+$"),
    ],
)
def test_shards_with_the_right_checksum_must_conform_to_the_format(
    server: FileServer, edit: Callable[[Samples], Samples], problem: str
) -> None:
    (server.folder / "index.parquet").unlink()
    first = server.folder / "train-000000.tar"
    rewrite(server.folder, edit(dict(read_samples(io.BytesIO(first.read_bytes())))))
    manifest = json.loads((server.folder / "manifest.json").read_text())
    manifest["bytes"] += first.stat().st_size - manifest["shards"][0]["bytes"]
    manifest["shards"][0] |= {"sha256": sha256(first.read_bytes()), "bytes": first.stat().st_size}
    (server.folder / "manifest.json").write_text(json.dumps(manifest))
    problems = find_problems(server)
    assert all(re.match(f"train-000000.tar: {problem}", found) for found in problems)
    assert problems


def test_an_index_that_does_not_match_a_shard_is_reported(server: FileServer) -> None:
    change_value(server.folder, "gaze_points", 15, 1)
    assert find_problems(server) == ["train-000001.tar: index.parquet does not match it: gaze_points"]


def edit_manifest(**changes: Any) -> Callable[[FileServer], None]:
    def edit(server: FileServer) -> None:
        path = server.folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        (edit_manifest(written=3), "manifest.json: written is 3, its other entries add up to"),
        (edit_manifest(failed=9), "manifest.json: planned is"),
        (edit_manifest(shards=[]), "manifest.json: written is"),
        (lambda server: (server.folder / "sizes.json").write_text("{}"), "sizes.json: does not match manifest.json"),
        (lambda server: (server.folder / "sizes.json").write_text("<html>"), "sizes.json: is not a JSON object"),
        (lambda server: (server.folder / "classes.json").write_text("{}"), "classes.json: does not match"),
        (lambda server: (server.folder / "failures.jsonl").write_text(""), "failures.jsonl: does not match"),
        (
            lambda server: (server.folder / "index.parquet").write_text("no"),
            "index.parquet is damaged, or not a Parquet",
        ),
        (lambda server: server.statuses.update({"sizes.json": [500]}), "sizes.json: cannot be checked: http"),
    ],
)
def test_files_that_do_not_match_the_manifest_are_reported(
    server: FileServer, plant: Callable[[FileServer], Any], problem: str
) -> None:
    plant(server)
    assert any(problem in found for found in find_problems(server))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "expected a published data set, found no manifest.json there"),
        (
            "<html>sign in</html>",
            "manifest.json is damaged, or not a manifest: Invalid JSON: expected value at line 1 column 1",
        ),
        ("{}", "manifest.json is damaged, or not a manifest: generation: Field required"),
    ],
)
def test_without_a_manifest_there_is_nothing_to_check(
    server: FileServer, content: str | None, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.folder / "manifest.json").unlink()
    if content is not None:
        (server.folder / "manifest.json").write_text(content)
    assert main([server.url, "--workers", "1"]) == 1
    printed, last = capsys.readouterr().out.splitlines()
    assert printed == f"{server.url}: {problem}"
    assert json.loads(last)["problems"] == [printed]


def test_a_host_that_does_not_answer_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert main([f"https://127.0.0.1:{port}/data"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"https://127.0.0.1:{port}/data/manifest.json: no complete answer (")
    assert json.loads(last)["ok"] is False


def test_in_the_middle_of_a_generation_the_published_shards_are_checked(server: FileServer, tmp_path: Path) -> None:
    storage, new = LocalStorage(server.folder), photographs(tmp_path / "new", 3, classes=1)
    [first] = read_plans(storage)
    config = LabelConfig(map_size=50, max_gaze_points=10, gaze_threshold=0.75, samples_per_shard=2)
    save_later_plan(storage, *make_plan(open_source(str(new)).list(), config, TEACHER, str(new), first))
    (server.folder / "train-000004.tar").write_bytes(b"a shard of the later generation")
    report = verify_copy(server.url, workers=1)
    assert (report["ok"], report["complete"], report["shards"]) == (True, False, SHARDS)
