import json

import numpy as np
import pytest
import torch
from scipy import stats

from common.errors import UserError
from common.settings import load_settings
from common.storage.s3_client import get_client
from tests.support.data.datasets import make_dataset, overwrite_member
from tests.support.faults import FaultProxy
from tests.support.stops import stopped_before
from trainer import search
from trainer.checkpoint import load_trained
from trainer.config import ADDED_SETTINGS
from trainer.data.dataset import open_dataset, split_shards
from trainer.step import Trainer
from trainer.studies.accuracy import read_shard_images
from trainer.studies.config import SearchSettings
from trainer.studies.search import SETTINGS, read_accuracies, run_search, run_trial, sample_weights


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [8] * 3, classes=2)


def make_flags(discs, output, *more):
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=2"]
    return [f"--data={discs}", f"--output={output}", "--recipe=contrastive-attn-teacher", *small, *more]


def test_weights_are_log_uniform_in_the_ranges_of_the_paper_and_depend_on_the_seed():
    weights = np.array(sample_weights(256, 0))
    assert weights.shape == (256, 2)
    for column, (low, high) in zip(weights.T, ((0.1, 5.0), (0.01, 1.0)), strict=True):
        fractions = (np.log(column) - np.log(low)) / (np.log(high) - np.log(low))
        assert stats.kstest(fractions, "uniform").pvalue > 0.01
    assert sample_weights(5, 1) == sample_weights(5, 1) != sample_weights(5, 2)
    assert len(sample_weights(1, 0)) == 1


def test_trial_reports_each_epoch_and_resumes_where_it_was_interrupted(discs, tmp_path, monkeypatch):
    settings = load_settings(SearchSettings, make_flags(discs, tmp_path))
    run = settings.run_settings(kld_weight=2.0, nss_weight=0.5, output=str(tmp_path / "trial"))
    split = split_shards(open_dataset(str(discs)), 0.2, 0)
    reports = []
    with stopped_before(3, Trainer, monkeypatch):
        run_trial(run, *split, reports.append)
    assert [report["epoch"] for report in reports] == [1]
    run_trial(run, *split, reports.append)
    assert [report["epoch"] for report in reports] == [1, 1, 2]
    assert reports[0] == reports[1]
    assert read_accuracies(str(tmp_path / "trial")) == [report["held_out_accuracy"] for report in reports[1:]]
    trained = load_trained(f"{tmp_path}/trial/checkpoints/last").model
    images = list(read_shard_images(split[1], 32))
    with torch.no_grad():
        predicted = trained.logits(torch.stack([image.image for image in images]).float() / 255).argmax(1).tolist()
    correct = [index == image.label for index, image in zip(predicted, images, strict=True)]
    assert len(correct) == 8
    assert reports[-1]["held_out_accuracy"] == np.mean(correct)
    result = json.loads((tmp_path / "trial/result.json").read_text())
    assert (result["samples"], result["steps"]) == (16, 4)


def test_accuracy_is_saved_before_a_report_that_stops_the_trial(discs, tmp_path):
    """Ray Tune stops a trial within its report, which does not return."""
    run = load_settings(SearchSettings, make_flags(discs, tmp_path)).run_settings(output=str(tmp_path / "trial"))

    def stop(figures):
        raise SystemExit

    with pytest.raises(SystemExit):
        run_trial(run, *split_shards(open_dataset(str(discs)), 0.2, 0), stop)
    assert len(read_accuracies(str(tmp_path / "trial"))) == 1


def test_damaged_held_out_image_is_skipped_with_skip_damaged(tmp_path):
    data = make_dataset(tmp_path / "data", [8] * 3, classes=2)
    training, held_out = split_shards(open_dataset(str(data)), 0.2, 0)
    overwrite_member(data, held_out.shards[0], f"{8 * int(held_out.shards[0][6:12]):09d}", "jpg")
    reports = []
    for number, more in enumerate(([], ["--skip-damaged"])):
        settings = load_settings(SearchSettings, make_flags(data, tmp_path, "--epochs=1", *more))
        run = settings.run_settings(output=str(tmp_path / f"trial-{number}"))
        if more:
            run_trial(run, training, held_out, reports.append)
        else:
            with pytest.raises(UserError, match="cannot be read"):
                run_trial(run, training, held_out, reports.append)
    assert [report["held_out_accuracy"] * 7 % 1 for report in reports] == [pytest.approx(0)]


@pytest.mark.usefixtures("s3_environment")
def test_held_out_shards_are_read_from_s3_once_if_they_are_cached_on_disk(discs, s3, bucket, tmp_path, monkeypatch):
    for path in discs.iterdir():
        s3.client().upload_file(str(path), bucket, f"data/{path.name}")
    with FaultProxy(s3) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        get_client.cache_clear()
        flags = make_flags(f"s3://{bucket}/data", tmp_path, f"--cache=disk:{tmp_path / 'cache'}")
        run = load_settings(SearchSettings, flags).run_settings(output=str(tmp_path / "trial"))
        training, held_out = split_shards(open_dataset(run.data), 0.2, 0)
        run_trial(run, training, held_out, lambda figures: None)
        keys = [request.key for request in proxy.requests]
    assert len(read_accuracies(str(tmp_path / "trial"))) == 2
    assert [keys.count(f"data/{shard}") for shard in held_out.shards] == [1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kld-weight=2"], "--kld-weight: these are searched"),
        (["--workers=2"], "--workers: a trial is one worker; see --concurrent"),
        (["--monitor=val"], "--monitor: a search measures each trial on the held-out shards"),
        (["--output=s3://bucket/search"], "a search needs a folder that all its workers can reach"),
        (["--no-probe"], "a search compares the accuracy of probes"),
        (
            ["--batch-size=20"],
            "--batch-size 20: .* four fifths of the shards, which hold 16 of the 24 samples",
        ),
        (["--recipe=contrastive"], "--recipe contrastive: the attention loss does not train the backbone"),
    ],
)
def test_unsupported_settings_raise_an_error_before_anything_is_written(discs, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        search.main(make_flags(discs, tmp_path / "search", *more))
    assert not (tmp_path / "search").exists()


def test_folder_with_other_files_is_refused(discs, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.studies.search._run_trials", lambda *_: pytest.fail("the search was started"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"1")
    with pytest.raises(UserError, match=r"expected a new folder, or a search to resume; .* such as photos/cat\.jpg"):
        search.main(make_flags(discs, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_search_that_met_a_damaged_sample_can_be_resumed_with_skip_damaged(discs, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.studies.search._run_trials", lambda *_: None)
    for more in ([], ["--skip-damaged"]):
        with pytest.raises(KeyboardInterrupt):  # no trial was run
            run_search(load_settings(SearchSettings, make_flags(discs, tmp_path, *more)))


def test_search_of_an_earlier_version_continues_with_the_rules_of_that_version(discs, tmp_path, monkeypatch):
    started = []

    def stop(runs, *_):
        started.append(runs)
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.studies.search._run_trials", stop)
    with pytest.raises(KeyboardInterrupt):
        run_search(load_settings(SearchSettings, make_flags(discs, tmp_path)))
    path = tmp_path / SETTINGS
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in saved.items() if name not in ADDED_SETTINGS}))
    with pytest.raises(KeyboardInterrupt):
        run_search(load_settings(SearchSettings, make_flags(discs, tmp_path)))
    new, old = ({run.train_config().bn_statistics for run in runs} for runs in started)
    assert (new, old) == ({"views"}, {"all"})
    with pytest.raises(UserError, match="bn_statistics was 'all', is 'views'"):
        run_search(load_settings(SearchSettings, make_flags(discs, tmp_path, "--bn-statistics=views")))


@pytest.mark.slow
def test_repeated_search_under_ray_tune_trains_nothing_again(discs, tmp_path, capfd):
    flags = make_flags(discs, tmp_path, "--trials=2")
    assert search.main(flags) == 0
    assert "best of 2 trials" in capfd.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/metrics.jsonl")}
    assert len(before) == 2
    assert search.main(flags) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(UserError, match="with other settings: trials was 2, is 3"):
        search.main([*flags, "--trials=3"])
