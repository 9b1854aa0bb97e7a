"""Tests of where samples come from: the setting, its default, and that no choice changes a loss."""

import json
from pathlib import Path
from typing import Any

import pytest

import trainer.data.source
from common.launch import Rank
from tests.support.data.datasets import make_dataset
from tests.support.training import CPU, make_settings
from trainer.data.dataset import open_dataset
from trainer.data.source import open_source
from trainer.job import run_training

RANK = Rank(0, 1, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), [20, 16])


def choose(folder: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[bool, str]:
    """Open the source. Returns whether its samples are decoded, and the line that says so."""
    settings = make_settings(folder, folder / "run", **changes)
    source = open_source(settings, open_dataset(str(folder)), RANK, "run", settings.epochs)
    return source.decoded, capsys.readouterr().out


def test_small_data_set_is_decoded_into_memory_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(folder, capsys) == (True, "cache: memory of the machine, 36 decoded samples, 369 KB\n")


def test_data_set_is_not_decoded_into_memory_that_is_mostly_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.data.source, "available_memory", lambda: 10**6)
    decoded, line = choose(folder, capsys)
    assert not decoded
    assert line == (
        "cache: none (decoded, the data set takes about 369 KB, more than a quarter of the 1 MB of available memory)\n"
    )
    assert choose(folder, capsys, cache="memory")[0]  # less than it would take by default is enough


def test_single_epoch_and_explicit_choices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(folder, capsys, epochs=1) == (False, "cache: none\n")
    assert choose(folder, capsys, cache="none") == (False, "cache: none\n")
    assert choose(folder, capsys, cache="disk:/nowhere") == (False, "cache: disk:/nowhere\n")


def test_finished_run_decodes_nothing(folder: Path) -> None:
    for changes in ({}, {"cache": "memory"}):
        source = open_source(
            make_settings(folder, folder / "run", **changes), open_dataset(str(folder)), RANK, "run", 0
        )
        assert not source.decoded


def test_losses_are_the_same_with_every_cache(folder: Path, tmp_path: Path) -> None:
    losses = []
    for number, cache in enumerate(["none", "memory", f"disk:{tmp_path / 'cache'}"]):
        output = tmp_path / str(number)
        run_training(make_settings(folder, output, cache=cache))
        lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 6
    assert losses[0] == losses[1] == losses[2]
