import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from common.errors import UserError
from common.settings import load_settings
from tests.support.datasets import make_dataset
from trainer import search
from trainer.data.dataset import open_dataset, split_shards
from trainer.step import Trainer
from trainer.studies.config import SearchSettings
from trainer.studies.run_search import Trial, read_accuracies, run_trial, sample_weights
from trainer.studies.surface import save_trials


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [8] * 3, classes=2)


def flags(discs, output, *more):
    usual = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=2"]
    return [f"--data={discs}", f"--output={output}", "--recipe=contrastive-attn-teacher", *usual, *more]


def test_weights_are_log_uniform_in_the_papers_ranges_and_drawn_by_the_seed():
    drawn = np.array(sample_weights(256, 0))
    assert drawn.shape == (256, 2)
    for column, (low, high) in zip(drawn.T, ((0.1, 5.0), (0.01, 1.0)), strict=True):
        shares = (np.log(column) - np.log(low)) / (np.log(high) - np.log(low))
        assert stats.kstest(shares, "uniform").pvalue > 0.01
    assert sample_weights(5, 1) == sample_weights(5, 1) != sample_weights(5, 2)
    assert len(sample_weights(1, 0)) == 1


def test_a_trial_reports_each_epoch_and_goes_on_where_it_was_stopped(discs, tmp_path, monkeypatch):
    settings = load_settings(SearchSettings, flags(discs, tmp_path))
    run = settings.run(kld_weight=2.0, nss_weight=0.5, output=str(tmp_path / "trial"))
    parts = split_shards(open_dataset(str(discs)), 0.2, 0)
    reports, forward = [], Trainer.train_step

    def stopping(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_trial(run, *parts, reports.append)
    assert [report["epoch"] for report in reports] == [1]
    run_trial(run, *parts, reports.append)
    assert [report["epoch"] for report in reports] == [1, 1, 2]
    assert reports[0] == reports[1]
    assert read_accuracies(str(tmp_path / "trial")) == [report["held_out_accuracy"] for report in reports[1:]]
    assert all(0 <= report["held_out_accuracy"] <= 1 for report in reports)
    result = json.loads((tmp_path / "trial/result.json").read_text())
    assert (result["samples"], result["steps"]) == (16, 4)


def test_the_figure_of_a_trial_that_ends_with_its_report_is_kept(discs, tmp_path):
    """Ray Tune does not return to a trial that it stops."""
    run = load_settings(SearchSettings, flags(discs, tmp_path)).run(output=str(tmp_path / "trial"))

    def stopping(figures):
        raise SystemExit

    with pytest.raises(SystemExit):
        run_trial(run, *split_shards(open_dataset(str(discs)), 0.2, 0), stopping)
    assert len(read_accuracies(str(tmp_path / "trial"))) == 1


def test_what_was_found_is_kept_as_csv_json_and_a_picture(tmp_path):
    trials = [
        Trial(1.0, 0.1, (0.5, 0.75), False),
        Trial(0.2, 0.5, (0.5, 0.7), False),
        Trial(4.0, 0.02, (0.4, 0.6), False),
        Trial(0.1, 1.0, (0.3,), True),
    ]
    assert "--kld-weight 1.0 --nss-weight 0.1, right on 75.00%" in save_trials(trials, str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["held_out_accuracy"], row["epochs"], row["stopped"]) for row in rows][2:] == [
        ("0.600000", "2", "False"),
        ("0.300000", "1", "True"),
    ]
    assert json.loads((tmp_path / "trials.json").read_text())[0]["accuracies"] == [0.5, 0.75]
    assert Image.open(tmp_path / "surface.png").size[0] > 500
    save_trials(trials[:1], str(tmp_path))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kld-weight=2"], "--kld-weight: these are searched"),
        (["--workers=2"], "--workers: a trial is one worker; see --concurrent"),
        (["--output=s3://bucket/search"], "a search needs a folder that all its workers see"),
        (["--no-probe"], "a search compares probes"),
        (
            ["--batch-size=20"],
            "--batch-size 20: .* four fifths of the shards, which hold 16 of the 24 samples",
        ),
        (["--recipe=contrastive"], "--recipe contrastive: no attention loss reaches the network"),
    ],
)
def test_what_a_search_cannot_do_is_refused(discs, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        search.main(flags(discs, tmp_path / "search", *more))
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_a_search_under_ray_tune_finds_its_best_and_does_nothing_twice(discs, tmp_path, capfd):
    chosen = flags(discs, tmp_path, "--trials=2")
    assert search.main(chosen) == 0
    assert "best of 2 trials" in capfd.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/metrics.jsonl")}
    assert len(before) == 2
    assert search.main(chosen) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(UserError, match="with other settings: trials was 2, is 3"):
        search.main([*chosen, "--trials=3"])
