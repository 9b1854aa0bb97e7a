import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from common.errors import UserError
from common.settings import load_settings
from tests.support.data.datasets import COLORS, make_dataset
from tests.support.data.people import write_people_csv
from trainer import table
from trainer.config import ADDED_SETTINGS
from trainer.recipes import PAPER_ROWS
from trainer.step import Trainer
from trainer.studies.config import TableSettings
from trainer.studies.table import list_runs


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [8, 8], classes=2)


@pytest.fixture
def trained_seeds(monkeypatch):
    """List that gets the run's seed at each training step."""
    seeds, train_step = [], Trainer.train_step

    def record_and_train(self, batch):
        seeds.append(self.config.seed)
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", record_and_train)
    return seeds


def make_flags(discs, output, *more):
    """Return the flags of a table of two recipes, with two seeds and two steps per run."""
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1", "--seeds=2"]
    return [f"--data={discs}", f"--output={output}", "--recipes=contrastive,supervised", *small, *more]


def test_table_trains_only_the_missing_runs(discs, tmp_path, trained_seeds, capsys):
    assert table.main(make_flags(discs, tmp_path, "--seeds=1")) == 0
    assert trained_seeds == [0] * 4
    assert table.main(make_flags(discs, tmp_path)) == 0
    assert trained_seeds == [0] * 4 + [1] * 4
    assert table.main(make_flags(discs, tmp_path)) == 0
    assert len(trained_seeds) == 8
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "augmented training images of the last epoch" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["recipe"], row["seeds"], row["paper"]) for row in rows] == [
        ("contrastive", "2", ""),
        ("supervised", "2", "69.1700"),
    ]
    results = [
        json.loads((tmp_path / f"runs/contrastive-resnet18-seed{seed}/result.json").read_text()) for seed in (0, 1)
    ]
    accuracies = [100 * result["probe_accuracy"] for result in results]
    assert float(rows[0]["mean"]) == pytest.approx(np.mean(accuracies), abs=1e-3)
    assert float(rows[0]["standard_error"]) == pytest.approx(stats.sem(accuracies), abs=1e-3)
    assert Image.open(tmp_path / "table.png").size[0] > 500
    with pytest.raises(UserError, match="with other settings: epochs was 1, is 2"):
        table.main(make_flags(discs, tmp_path, "--epochs=2"))

    # with --val, the finished runs are measured on validation images, again when these change
    for name in COLORS[:2]:
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30), name).save(tmp_path / "val" / name / "0.png")
    assert table.main(make_flags(discs, tmp_path, f"--val={tmp_path / 'val'}")) == 0
    assert len(trained_seeds) == 8
    assert f"87.5 % center crops of {tmp_path / 'val'}" in (tmp_path / "table.md").read_text()
    assert {float(row["mean"]) for row in csv.DictReader((tmp_path / "table.csv").open())} <= {0, 25, 50, 75, 100}
    Image.new("RGB", (40, 30), "black").save(tmp_path / "val" / COLORS[0] / "1.png")
    before = (tmp_path / "runs/contrastive-resnet18-seed0/validation.json").read_text()
    assert table.main(make_flags(discs, tmp_path, f"--val={tmp_path / 'val'}")) == 0
    assert (tmp_path / "runs/contrastive-resnet18-seed0/validation.json").read_text() != before


def test_human_data_and_learning_rates_apply_to_their_recipes_only(discs, tmp_path):
    people = write_people_csv(tmp_path / "csv", 2)
    flags = [f"--human-data={people}", "--learning-rate=2", "--supervised-learning-rate=0.05"]
    settings = load_settings(TableSettings, [f"--data={discs}", f"--output={tmp_path}", *flags])
    runs = list_runs(settings)
    assert tuple(runs) == PAPER_ROWS
    assert [name for name, seeds in runs.items() if seeds[0].human_data] == ["contrastive-attn-cotrain"]
    rates = {name: seeds[0].learning_rate for name, seeds in runs.items()}
    assert (rates.pop("supervised"), rates.pop("supervised-attn-teacher")) == (0.05, 0.05)
    assert set(rates.values()) == {2}
    assert [run.seed for run in runs["contrastive"]] == [0, 1, 2]
    assert (runs["contrastive"][0].train_config().epochs, runs["supervised"][0].train_config().epochs) == (400, 90)


def test_unsupported_settings_raise_an_error_before_anything_is_trained(discs, tmp_path, trained_seeds):
    with pytest.raises(UserError, match="--human-data is needed"):
        table.main([*make_flags(discs, tmp_path), "--recipes=contrastive,contrastive-attn-cotrain"])
    with pytest.raises(UserError, match="--seed: the table has --recipes and --seeds"):
        table.main(make_flags(discs, tmp_path, "--seed=1"))
    with pytest.raises(UserError, match="--recipe nothing: expected one of"):
        table.main([*make_flags(discs, tmp_path), "--recipes=nothing"])
    with pytest.raises(UserError, match="--baseline supervized: expected one of the recipes of the table, contrastive"):
        table.main([*make_flags(discs, tmp_path), "--baseline=supervized"])
    val = tmp_path / "val"
    (val / COLORS[0]).mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(val / COLORS[0] / "0.png")
    with pytest.raises(UserError, match=r"expected the 2 classes of the training data, found 1"):
        table.main(make_flags(discs, tmp_path, f"--val={val}"))
    with pytest.raises(UserError, match="--no-probe: a table compares the accuracy of probes"):
        table.main(make_flags(discs, tmp_path, "--no-probe"))
    data = make_dataset(tmp_path / "no classes", [8, 8], classes=None)
    message = r"a table compares the accuracy of probes: the samples of .*no classes have no classes"
    with pytest.raises(UserError, match=message):
        table.main([*make_flags(data, tmp_path), "--recipes=contrastive"])
    assert not trained_seeds


def write_val(folder, unreadable=()):
    """Write two validation images of each class; those with names in `unreadable` are damaged."""
    for name in (f"{color}/{number}.png" for color in COLORS[:2] for number in range(2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), name.partition("/")[0]).save(folder / name)
        if name in unreadable:
            (folder / name).write_bytes(b"no image")
    return folder


def test_unreadable_validation_image_is_excluded_and_named_below_the_table(discs, tmp_path, trained_seeds):
    val = write_val(tmp_path / "val", ["red/1.png"])
    flags = make_flags(discs, tmp_path / "table", "--seeds=1", "--recipes=contrastive", f"--val={val}")
    for _ in range(2):  # measured, then read from the run's folder
        assert table.main(flags) == 0
        text = (tmp_path / "table/table.md").read_text()
        assert "center crops of " in text
        assert "1 unreadable image excluded: red/1.png (not_an_image: " in text
    assert len(trained_seeds) == 2
    [row] = csv.DictReader((tmp_path / "table/table.csv").open())
    assert any(float(row["mean"]) == pytest.approx(100 * correct / 3, abs=1e-3) for correct in range(4))


def test_validation_images_of_which_none_can_be_read_raise_an_error_before_anything_is_trained(
    discs, tmp_path, trained_seeds
):
    val = write_val(tmp_path / "val", [f"{color}/{number}.png" for color in COLORS[:2] for number in range(2)])
    with pytest.raises(UserError, match=r"--val .*: expected at least one readable image, found 4 unreadable: lime/0"):
        table.main(make_flags(discs, tmp_path / "table", f"--val={val}"))
    assert not trained_seeds


def test_folder_with_other_files_is_refused_before_anything_is_trained(discs, tmp_path, trained_seeds):
    (tmp_path / "runs/of another table").mkdir(parents=True)
    (tmp_path / "runs/of another table/config.json").write_text("{}")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"1")
    flags = make_flags(discs, tmp_path, "--seeds=1", "--recipes=contrastive")
    with pytest.raises(UserError, match=r"expected a new folder, or a table to resume; .* such as photos/cat\.jpg"):
        table.main(flags)
    assert not trained_seeds
    (tmp_path / "photos/cat.jpg").unlink()
    assert table.main(flags) == 0


def test_finished_run_of_other_data_raises_an_error(tmp_path):
    data, output = make_dataset(tmp_path / "data", [8], classes=2), tmp_path / "table"
    one_run = ["--recipes=contrastive", "--seeds=1"]
    assert table.main([*make_flags(data, output), *one_run]) == 0
    make_dataset(data, [8], classes=2, first=8)
    with pytest.raises(UserError, match="with other settings: dataset was"):
        table.main([*make_flags(data, output), *one_run])


def test_stopped_run_of_an_earlier_version_does_not_join_runs_with_other_rules(discs, tmp_path, trained_seeds):
    flags = make_flags(discs, tmp_path, "--recipes=contrastive", "--seeds=1")
    earlier_rules = ["--bn-statistics=all", "--readout-rate=backbone"]
    table.main([*flags, *earlier_rules])
    run = tmp_path / "runs/contrastive-resnet18-seed0"
    (run / "result.json").unlink()
    config = json.loads((run / "config.json").read_text())
    earlier = {name: value for name, value in config.items() if name not in ADDED_SETTINGS}
    (run / "config.json").write_text(json.dumps(earlier))
    trained_seeds.clear()
    with pytest.raises(UserError, match="bn_statistics was 'all', is 'views'; readout_rate was 'backbone', is 'probe'"):
        table.main(flags)
    assert not trained_seeds
    assert table.main([*flags, *earlier_rules]) == 0
