"""The runs of the study of controls at the smallest scale: what is trained, measured and recorded."""

import json
import shutil

import pytest

from common.errors import UserError
from common.settings import load_settings
from tests.support.data.datasets import make_dataset
from tests.support.data.people import write_people_csv
from tests.support.evaluation import CLASSES, write_held_out
from trainer.step import Trainer
from trainer.studies import control_runs, controls
from trainer.studies.config import ControlsSettings
from trainer.studies.table import list_runs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Return the flags of a study of two recipes and one seed, without --output."""
    folder = tmp_path_factory.mktemp("inputs")
    people = write_people_csv(folder / "people", 2)
    (folder / "val").mkdir()
    flags = [f"--data={make_dataset(folder / 'data', [8, 8], CLASSES)}", f"--val={write_held_out(folder / 'val', 2)}"]
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1", "--warmup-epochs=0"]
    scale = ["--recipes=contrastive,contrastive-attn-teacher", "--seeds=1", "--corrupted-images=2", "--severities=1"]
    return [*flags, f"--people={people}", *small, *scale]


@pytest.fixture
def trained(monkeypatch):
    """List that gets recipe and seed of each training step. Images are read in the test's process."""
    steps, train_step = [], Trainer.train_step

    def record_and_train(self, batch):
        steps.append((self.config.recipe, self.config.seed))
        return train_step(self, batch)

    settings = control_runs.EvaluateSettings
    monkeypatch.setattr(Trainer, "train_step", record_and_train)
    monkeypatch.setattr(control_runs, "EvaluateSettings", lambda **values: settings(**values, readers=0))
    return steps


def test_study_resumes_adds_seeds_and_suites_and_takes_results_of_other_machines(inputs, trained, tmp_path, capsys):
    flags = [*inputs, "--suites=linear"]
    assert controls.main([*flags, f"--output={tmp_path / 'study'}"]) == 0
    assert dict.fromkeys(trained) == dict.fromkeys([("contrastive", 0), ("contrastive-attn-teacher", 0)])
    result = json.loads((tmp_path / "study/results/contrastive-seed0.json").read_text())
    assert result["measured"].keys() == {"linear"}
    assert 0 <= result["measured"]["linear"]["results"]["offline"]["top1"] <= 1
    assert (result["settings"]["epochs"], result["data"]["samples"]) == (1, 16)
    assert not {"data", "seed", "recipe"} & result["settings"].keys()
    assert str(tmp_path) not in json.dumps(result)
    assert (tmp_path / "study/study.md").read_text() in capsys.readouterr().out

    # another machine has the result files only, and adds a seed
    shutil.copytree(tmp_path / "study/results", tmp_path / "other/results")
    trained.clear()
    assert controls.main([*flags, "--seeds=2", f"--output={tmp_path / 'other'}"]) == 0
    assert dict.fromkeys(trained) == dict.fromkeys([("contrastive", 1), ("contrastive-attn-teacher", 1)])
    assert len(list((tmp_path / "other/results").glob("*.json"))) == 4

    # with another suite, which needs the trained runs
    flags = [*inputs, "--suites=linear,alignment"]
    trained.clear()
    with pytest.raises(
        UserError, match=r"expected the run that results/contrastive-seed0\.json was measured on, to me"
    ):
        controls.main([*flags, f"--output={tmp_path / 'other'}"])
    assert controls.main([*flags, f"--output={tmp_path / 'study'}"]) == 0
    assert not trained
    added = json.loads((tmp_path / "study/results/contrastive-seed0.json").read_text())
    assert added["measured"]["linear"] == result["measured"]["linear"]
    assert -1 <= added["measured"]["alignment"]["results"]["cc"] <= 1
    assert not list((tmp_path / "study/evaluations").rglob("features"))

    with pytest.raises(UserError, match=r"differs from the settings of this command: epochs is 1, not 2"):
        controls.main([*flags, "--epochs=2", "--first-seed=5", f"--output={tmp_path / 'study'}"])
    people = write_people_csv(tmp_path / "people", 1)
    with pytest.raises(UserError, match=r"differs from the settings of this command: alignment people is "):
        controls.main([*flags, f"--people={people}", f"--output={tmp_path / 'study'}"])
    assert not trained


@pytest.mark.slow  # numba compiles a corruption
def test_corruptions_are_measured_at_the_severities_of_the_study(inputs, trained, tmp_path):
    flags = [*inputs, "--recipes=contrastive", "--suites=imagenet-c", f"--output={tmp_path}"]
    assert controls.main(flags) == 0
    measured = json.loads((tmp_path / "results/contrastive-seed0.json").read_text())["measured"]["imagenet-c"]
    assert (measured["of"]["corrupted"], measured["of"]["severities"]) == (2, [1])
    assert measured["results"]["fog"].keys() == {"1"}
    assert 0 <= measured["results"]["offline"]["mean"] <= 1
    with pytest.raises(UserError, match=r"imagenet-c severities is \[1\], not \[1, 2\]"):
        controls.main([*flags, "--severities=2"])


def test_unsupported_settings_raise_an_error_before_anything_is_trained(inputs, trained, tmp_path):
    output = f"--output={tmp_path / 'study'}"
    without_val, without_people = (
        [flag for flag in inputs if not flag.startswith(name)] for name in ("--val", "--people")
    )
    for flags, message in (
        (
            [*inputs, output, "--recipes=contrastive,contrastive-attn-moon"],
            "--recipe contrastive-attn-moon: expected one",
        ),
        ([*inputs, "--output=s3://bucket/study"], "a study needs a local folder"),
        ([*without_val, output], "--val is needed"),
        ([*inputs, output, "--suites=retrieval"], "expected some of linear, alignment, imagenet-c"),
        ([*inputs, output, "--people=osie-eye:nowhere"], "--people osie-eye:nowhere: there is no folder"),
        ([*inputs, output, "--seed=1"], "--seed: "),
        ([*without_people, output, "--suites=alignment"], "--suites alignment needs --people FORMAT:FOLDER"),
        (
            [*inputs, output, "--recipes=contrastive,supervised"],
            "--recipes: .* those of supervised differ from those of contrastive: weight_decay is 0.0001, not 1e-06;",
        ),
    ):
        with pytest.raises(UserError, match=message):
            controls.main(flags)
    assert not trained
    assert not (tmp_path / "study").exists()


def test_learning_rate_applies_to_all_arms(tmp_path):
    flags = ["--data=x", f"--output={tmp_path}", "--recipes=contrastive,supervised", "--learning-rate=2"]
    runs = list_runs(load_settings(ControlsSettings, flags))
    assert [seeds[0].learning_rate for seeds in runs.values()] == [2, 2]


def test_folder_with_other_files_is_refused(inputs, trained, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"1")
    with pytest.raises(UserError, match=r"expected a new folder, or a study to resume; .* such as cat\.jpg"):
        controls.main([*inputs, f"--output={tmp_path}"])
    assert not trained
