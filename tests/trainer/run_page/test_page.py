"""Tests of the page of a run: what it shows after each epoch, after a resume, and when something is missing."""

import io
import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from common.errors import UserError
from common.training import load_checkpoint
from tests.support.data.datasets import make_dataset, overwrite_member
from tests.support.s3_server import S3Server
from tests.support.stops import stopped_before
from tests.support.training import make_settings
from trainer import run
from trainer.job import run_training
from trainer.run_page.maps import MAPS_FILE
from trainer.run_page.page import PAGE, RunPage
from trainer.step import Trainer

EPOCHS, STEPS_PER_EPOCH = 4, 2
SMALL = {"epochs": EPOCHS, "checkpoint_every": 100}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), [13, 12])


@pytest.fixture(scope="module")
def finished(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was never interrupted."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    run_training(make_settings(discs, output, **SMALL))
    return output


def read_rows(page: str) -> list[list[str]]:
    """Return the embedded pictures of each row of the table: photograph, teacher's map, the model's maps."""
    rows = re.findall(r"<tr><td>.*?</tr>", page, re.DOTALL)
    return [re.findall(r"data:image/\w+;base64,([\w+/=]+)", row) for row in rows]


def read_headings(page: str) -> list[str]:
    return re.findall(r"<th>([^<]*)", page)


def read_points(page: str, name: str) -> dict[int, str]:
    """Return the values of a curve by epoch, from the texts that its markers show on hover."""
    return {int(epoch): value for epoch, value in re.findall(rf"<title>{name}, epoch (\d+): ([^<]*)</title>", page)}


def read_means(output: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["epoch"]: line["means"] for line in lines if "means" in line}


def test_page_of_a_finished_run_shows_all_epochs_and_eight_samples(finished: Path) -> None:
    page = (finished / PAGE).read_text()
    means = read_means(finished)
    for label, name in {
        "loss": "loss",
        "contrastive": "contrastive",
        "KLD": "kld",
        "NSS": "nss",
        "probe": "probe_accuracy",
        "teacher&#x27;s maps": "attention_cc",
        "gradient_norm": "gradient_norm",
    }.items():
        assert read_points(page, label) == {epoch: f"{means[epoch][name]:.4g}" for epoch in range(1, EPOCHS + 1)}
    rows = read_rows(page)
    assert [len(row) for row in rows] == [2 + 5] * 8
    assert len({picture for row in rows for picture in row}) == 8 * 7
    expected = ["photograph", "teacher&#x27;s map", "before training", "epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    assert read_headings(page) == expected
    assert "4 of 4" in page
    assert "finished" in page
    assert 'http-equiv="refresh"' not in page


def test_page_is_renewed_at_the_start_and_after_each_epoch(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []
    train_step = Trainer.train_step

    def read_page_and_train(trainer: Trainer, batch: object) -> dict[str, float]:
        if trainer.step % STEPS_PER_EPOCH == 0:
            pages.append((tmp_path / PAGE).read_text())
        return train_step(trainer, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", read_page_and_train)
    run_training(make_settings(discs, tmp_path, **SMALL))
    assert len(pages) == EPOCHS
    for epoch, page in enumerate(pages):
        assert f"{epoch} of {EPOCHS}" in page
        assert list(read_points(page, "loss")) == list(range(1, epoch + 1))
        assert [len(row) for row in read_rows(page)] == [2 + epoch + 1] * 8
        assert 'http-equiv="refresh" content="60"' in page
        assert ("time left" in page) == (epoch > 0)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_resumed_run_has_the_page_of_an_uninterrupted_one(
    discs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with stopped_before(step, Trainer, monkeypatch):
        run_training(make_settings(discs, tmp_path, **SMALL))
    stopped = (tmp_path / PAGE).read_text()
    assert "stopped" in stopped
    assert 'http-equiv="refresh"' not in stopped
    run_training(make_settings(discs, tmp_path, **SMALL))
    page, expected = (tmp_path / PAGE).read_text(), (finished / PAGE).read_text()
    assert read_rows(page) == read_rows(expected)
    assert read_rows(stopped)[3][:3] == read_rows(expected)[3][:3]
    assert read_headings(page) == read_headings(expected)
    assert read_points(page, "loss") == read_points(expected, "loss")


def test_weights_are_the_same_without_the_page(
    discs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("start", "update", "finish"):
        monkeypatch.setattr(RunPage, method, lambda *arguments: None)
    run_training(make_settings(discs, tmp_path, **SMALL))
    assert not (tmp_path / PAGE).exists()
    without, with_page = (load_checkpoint(folder / "checkpoints/last") for folder in (tmp_path, finished))
    assert without["model"].keys() == with_page["model"].keys()
    assert all(torch.equal(weights, with_page["model"][key]) for key, weights in without["model"].items())
    assert read_means(tmp_path) == read_means(finished)


def test_damaged_sample_leaves_a_page_without_pictures_that_says_why(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "discs", [8, 8])
    for shard in (0, 1):
        overwrite_member(data, f"train-00000{shard}.tar", f"{8 * shard + 2:09}", "jpg")
    with pytest.raises(UserError, match=r"sample .* cannot be read"):
        run_training(make_settings(data, tmp_path / "run", **SMALL))
    run_training(make_settings(data, tmp_path / "run", skip_damaged=True, **SMALL))
    page = (tmp_path / "run" / PAGE).read_text()
    assert re.search(r"The samples of this page cannot be read: .*train-00000\d.tar cannot be read: ", page)
    assert not read_rows(page)
    assert list(read_points(page, "loss")) == [1, 2, 3, 4]


def test_damaged_file_of_maps_is_replaced(
    discs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_before(4, Trainer, monkeypatch):
        run_training(make_settings(discs, tmp_path, **SMALL))
    (tmp_path / MAPS_FILE).write_bytes(b"PK")
    run_training(make_settings(discs, tmp_path, **SMALL))
    page = (tmp_path / PAGE).read_text()
    assert f"{MAPS_FILE}, the maps of earlier epochs, cannot be read" in page
    assert read_headings(page)[2:] == ["epoch 2", "epoch 3", "epoch 4"]
    assert [row[-1] for row in read_rows(page)] == [row[-1] for row in read_rows((finished / PAGE).read_text())]


def test_finished_run_without_a_page_gets_one(discs: Path, finished: Path, tmp_path: Path) -> None:
    """As runs of earlier versions do, which also have no file of maps."""
    output = shutil.copytree(finished, tmp_path / "run")
    (output / PAGE).unlink()
    (output / MAPS_FILE).unlink()
    run_training(make_settings(discs, output, **SMALL))
    page, expected = ((folder / PAGE).read_text() for folder in (output, finished))
    assert read_points(page, "loss") == read_points(expected, "loss")
    assert [row[2:] for row in read_rows(page)] == [row[-1:] for row in read_rows(expected)]


def test_page_that_cannot_be_written_stops_the_run(discs: Path, tmp_path: Path) -> None:
    settings = make_settings(discs, tmp_path, **SMALL)
    (tmp_path / PAGE).mkdir()
    with pytest.raises(UserError, match=r"index\.html: cannot be written"):
        run_training(settings)


def read_events(path: Path) -> Iterator[Event]:
    """Read the records of a TensorBoard file: each has its length, a checksum of it, the event, and its checksum."""
    content = io.BytesIO(path.read_bytes())
    while header := content.read(12):
        yield Event.FromString(content.read(struct.unpack("<Q", header[:8])[0]))
        content.read(4)


def test_tensorboard_has_the_pictures_of_the_planned_epochs(finished: Path) -> None:
    pictures = {}
    for path in (finished / "tensorboard").iterdir():
        for event in read_events(path):
            for value in event.summary.value:
                if value.HasField("image"):
                    assert value.tag == "attention_maps"
                    image = Image.open(io.BytesIO(value.image.encoded_image_string))
                    pictures[event.step] = np.asarray(image)
    assert list(pictures) == [step * STEPS_PER_EPOCH for step in (0, 1, 2, 3, 4)]
    assert {picture.shape for picture in pictures.values()} == {(8 * 112, 3 * 112, 3)}
    first, last = pictures[0], pictures[EPOCHS * STEPS_PER_EPOCH]
    assert np.array_equal(first[:, : 2 * 112], last[:, : 2 * 112])
    assert not np.array_equal(first[:, 2 * 112 :], last[:, 2 * 112 :])


@pytest.mark.usefixtures("s3_environment")
def test_run_in_s3_has_its_page_there_and_shows_earlier_maps_after_a_resume(
    discs: Path, finished: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_page() -> str:
        return str(s3.client().get_object(Bucket=bucket, Key=f"run/{PAGE}")["Body"].read().decode())

    settings = make_settings(discs, Path("run"), **SMALL).model_copy(update={"output": f"s3://{bucket}/run"})
    with stopped_before(4, Trainer, monkeypatch):
        run_training(settings)
    assert "2 of 4" in read_page()
    run_training(settings)
    assert read_rows(read_page()) == read_rows((finished / PAGE).read_text())


def test_program_names_the_page(discs: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=12", "--warmup-epochs=1", f"--epochs={EPOCHS}"]
    assert run.main([f"--data={discs}", f"--output={finished}", *small]) == 0
    assert f"open {finished}/index.html in a browser" in capsys.readouterr().out
