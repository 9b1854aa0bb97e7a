import csv
import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from common.errors import UserError
from common.intervals import standard_error
from common.settings import load_settings
from tests.support.datasets import COLORS, make_dataset
from tests.support.people import make_people
from trainer import table
from trainer.recipes import recipe_names
from trainer.step import Trainer
from trainer.studies.config import TableSettings
from trainer.studies.format_table import draw_table, format_csv, format_markdown
from trainer.studies.rows import TableRow, list_runs


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [8, 8], classes=2)


@pytest.fixture
def steps(monkeypatch):
    """The steps that are learnt, as they are."""
    learnt, learn = [], Trainer.train_step
    monkeypatch.setattr(
        Trainer, "train_step", lambda self, batch: learnt.append(self.config.seed) or learn(self, batch)
    )
    return learnt


def flags(discs, output, *more):
    usual = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1", "--seeds=2"]
    return [f"--data={discs}", f"--output={output}", "--recipes=contrastive,supervised", *usual, *more]


def test_a_table_trains_what_is_missing_and_no_more(discs, tmp_path, steps, capsys):
    assert table.main(flags(discs, tmp_path, "--seeds=1")) == 0
    assert steps == [0] * 4
    assert table.main(flags(discs, tmp_path)) == 0
    assert steps == [0] * 4 + [1] * 4
    assert table.main(flags(discs, tmp_path)) == 0
    assert len(steps) == 8
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "augmented images of the last epoch of training" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["recipe"], row["seeds"], row["paper"]) for row in rows] == [
        ("contrastive", "2", ""),
        ("supervised", "2", "69.1700"),
    ]
    results = [json.loads((tmp_path / f"runs/contrastive-resnet18-seed{s}/result.json").read_text()) for s in (0, 1)]
    found = [100 * result["probe_accuracy"] for result in results]
    assert float(rows[0]["mean"]) == pytest.approx(np.mean(found), abs=1e-3)
    assert float(rows[0]["standard_error"]) == pytest.approx(stats.sem(found), abs=1e-3)
    assert Image.open(tmp_path / "table.png").size[0] > 500
    with pytest.raises(UserError, match="with other settings: epochs was 1, is 2"):
        table.main(flags(discs, tmp_path, "--epochs=2"))

    for name in COLORS[:2]:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), name).save(tmp_path / "val" / name / "0.png")
    assert table.main(flags(discs, tmp_path, f"--val={tmp_path / 'val'}")) == 0
    assert len(steps) == 8
    assert f"87.5 % centre crops of {tmp_path / 'val'}" in (tmp_path / "table.md").read_text()
    assert {float(row["mean"]) for row in csv.DictReader((tmp_path / "table.csv").open())} <= {0, 25, 50, 75, 100}
    Image.new("RGB", (40, 30), "black").save(tmp_path / "val" / COLORS[0] / "1.png")
    known = (tmp_path / "runs/contrastive-resnet18-seed0/validation.json").read_text()
    assert table.main(flags(discs, tmp_path, f"--val={tmp_path / 'val'}")) == 0
    assert (tmp_path / "runs/contrastive-resnet18-seed0/validation.json").read_text() != known


def test_human_data_and_learning_rates_go_to_the_recipes_that_they_are_for(discs, tmp_path):
    people = make_people(tmp_path / "csv", 2)
    own = [f"--human-data={people}", "--learning-rate=2", "--supervised-learning-rate=0.05"]
    settings = load_settings(TableSettings, [f"--data={discs}", f"--output={tmp_path}", *own])
    runs = list_runs(settings)
    assert set(runs) == set(recipe_names())
    assert [name for name, seeds in runs.items() if seeds[0].human_data] == ["contrastive-attn-cotrain"]
    rates = {name: seeds[0].learning_rate for name, seeds in runs.items()}
    assert (rates.pop("supervised"), rates.pop("supervised-attn-teacher")) == (0.05, 0.05)
    assert set(rates.values()) == {2}
    assert [run.seed for run in runs["contrastive"]] == [0, 1, 2]
    assert (runs["contrastive"][0].train_config().epochs, runs["supervised"][0].train_config().epochs) == (400, 90)


def test_what_cannot_run_is_refused_before_anything_is_trained(discs, tmp_path, steps):
    with pytest.raises(UserError, match="--human-data is needed"):
        table.main([*flags(discs, tmp_path), "--recipes=contrastive,contrastive-attn-cotrain"])
    with pytest.raises(UserError, match="--seed: the table has --recipes and --seeds"):
        table.main(flags(discs, tmp_path, "--seed=1"))
    with pytest.raises(UserError, match="--recipe nothing: expected one of"):
        table.main([*flags(discs, tmp_path), "--recipes=nothing"])
    val = tmp_path / "val"
    (val / COLORS[0]).mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(val / COLORS[0] / "0.png")
    with pytest.raises(UserError, match=r"expected the 2 classes of the training data, found 1"):
        table.main(flags(discs, tmp_path, f"--val={val}"))
    with pytest.raises(UserError, match="--no-probe: a table compares probes"):
        table.main(flags(discs, tmp_path, "--no-probe"))
    nameless = make_dataset(tmp_path / "nameless", [8, 8], classes=None)
    with pytest.raises(UserError, match=r"a table compares probes: the samples of .*nameless have no classes"):
        table.main([*flags(nameless, tmp_path), "--recipes=contrastive"])
    assert not steps


def test_a_run_of_other_data_is_refused(tmp_path):
    data, output = make_dataset(tmp_path / "data", [8], classes=2), tmp_path / "table"
    small = ["--recipes=contrastive", "--seeds=1"]
    assert table.main([*flags(data, output), *small]) == 0
    make_dataset(data, [8], classes=2, first=8)
    with pytest.raises(UserError, match="with other settings: dataset was"):
        table.main([*flags(data, output), *small])


ROWS = [
    TableRow("contrastive", "resnet50", (60.0, 62.0, 61.0), (67.61, 0.04)),
    TableRow("contrastive-contracam", "resnet50", (60.0,), (67.71, None)),
    TableRow("another", "resnet34", (50.0, 52.0), None),
]


def test_means_errors_and_the_papers_figures_stand_side_by_side(tmp_path):
    assert standard_error((60.0, 62.0, 61.0)) == pytest.approx(1 / math.sqrt(3))
    lines = format_markdown(ROWS).splitlines()
    assert lines[2] == "| contrastive | resnet50 | 3 | 61.00 ± 0.58 | 67.61 ± 0.04 |"
    assert lines[3] == "| contrastive-contracam | resnet50 | 1 | 60.00 | 67.71 |"
    assert lines[4] == "| another | resnet34 | 2 | 51.00 ± 1.00 |  |"
    assert format_csv(ROWS).splitlines()[3] == "another,resnet34,2,51.0000,1.0000,,,50.0000 52.0000"
    draw_table(ROWS, str(tmp_path / "table.png"))
    assert Image.open(tmp_path / "table.png").size[1] > 100
