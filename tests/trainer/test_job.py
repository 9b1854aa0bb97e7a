import json
import shutil

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from common.training import load_checkpoint
from tests.support.data.datasets import make_dataset, overwrite_member
from tests.support.stops import stopped_before
from tests.support.training import make_settings
from trainer.config import ADDED_SETTINGS, TrainSettings
from trainer.job import run_training
from trainer.step import Trainer

TIMING_KEYS = ("images_per_second", "waited", "memory_gb", "seconds")


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [10, 14, 12])


def read_metrics(output):
    """Return the lines of a run's metric log without those entries that depend on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING_KEYS} for line in lines]


@pytest.fixture(scope="module")
def finished(discs, tmp_path_factory):
    """Folder of a run that was never interrupted."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    run_training(make_settings(discs, output))
    return output


def test_run_writes_settings_metrics_checkpoints_and_result(discs, finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert {"config.json", "metrics.jsonl", "checkpoints/last", "checkpoints/best", "result.json"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    config = json.loads((finished / "config.json").read_text())
    assert (config["recipe"], config["batch_size"], len(config["dataset"])) == ("contrastive-attn-teacher", 12, 64)
    steps = [line for line in map(json.loads, (finished / "metrics.jsonl").open()) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    expected = {"loss", "contrastive", "kld", "nss", "probe_accuracy", "learning_rate", "images_per_second", "waited"}
    assert all(expected | {"memory_gb"} <= line.keys() for line in steps)
    result = json.loads((finished / "result.json").read_text())
    assert (result["steps"], result["samples"], result["chance"]) == (6, 36, 0.25)


def test_data_set_as_output_is_refused_and_not_changed(discs, tmp_path):
    output = shutil.copytree(discs, tmp_path / "data set")
    (output / "README.md").write_text("the card of the data set")
    before = {path: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UserError, match=r"--output .*: expected a new folder, or a run to resume; found other files"):
        run_training(make_settings(discs, output))
    assert {path: path.read_bytes() for path in output.rglob("*")} == before


def test_folder_of_runs_is_refused(discs, finished):
    with pytest.raises(UserError, match=r"such as finished/README\.md; choose another folder"):
        run_training(make_settings(discs, finished.parent))


def test_run_whose_settings_file_was_removed_is_resumed(discs, finished, tmp_path):
    """An error about a damaged file advises to remove it."""
    output = shutil.copytree(finished, tmp_path / "run")
    (output / "config.json").unlink()
    (output / "notes.txt").write_text("of the user")
    run_training(make_settings(discs, output))
    assert (output / "config.json").read_text() == (finished / "config.json").read_text()


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_resumed_run_equals_an_uninterrupted_one(discs, finished, tmp_path, monkeypatch, step):
    settings = make_settings(discs, tmp_path / "run")
    with stopped_before(step, Trainer, monkeypatch):
        run_training(settings)
    run_training(settings)
    assert read_metrics(tmp_path / "run") == read_metrics(finished)
    for name in ("last", "best"):
        actual, expected = (
            load_checkpoint(run / "checkpoints" / name)["model"] for run in (tmp_path / "run", finished)
        )
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_run_of_an_earlier_version_is_resumed_although_its_settings_lack_some_keys(discs, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((output / "config.json").read_text())
    assert config.keys() >= ADDED_SETTINGS.keys()
    lacking = {name for name, value in ADDED_SETTINGS.items() if value == config[name]}
    assert "stem_stride" in lacking
    old = {name: value for name, value in config.items() if name not in lacking}
    (output / "config.json").write_text(json.dumps(old))
    run_training(make_settings(discs, output))
    with pytest.raises(UserError, match="stem_stride was 4, is 2"):
        run_training(make_settings(discs, output, stem_stride=2))


def test_stopped_run_of_an_earlier_version_keeps_its_statistics_and_its_read_out_rate(discs, tmp_path, monkeypatch):
    earlier = {"bn_statistics": "all", "readout_rate": "backbone"}
    run_training(make_settings(discs, tmp_path / "expected", **earlier))
    settings = make_settings(discs, tmp_path / "run", **earlier)
    with stopped_before(3, Trainer, monkeypatch):
        run_training(settings)
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in earlier}))
    with pytest.raises(UserError, match="bn_statistics was 'all', is 'views'"):
        run_training(make_settings(discs, tmp_path / "run", bn_statistics="views"))
    run_training(make_settings(discs, tmp_path / "run"))
    actual, expected = (load_checkpoint(tmp_path / run / "checkpoints/last")["model"] for run in ("run", "expected"))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_run_starts_with_given_weights_and_resumes_without_their_file(discs, finished, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "weights"
    shutil.copy(finished / "checkpoints/last", weights)
    small = {"stem_stride": 2, "min_crop": 0.5, "jitter_strength": 0}
    settings = make_settings(discs, tmp_path / "run", init=weights, epochs=1, **small)
    first = {}
    original = Trainer.train_step

    def record(trainer, batch):
        first.setdefault("state", {name: value.clone() for name, value in trainer.model.state_dict().items()})
        return original(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", record)
    with stopped_before(2, Trainer, monkeypatch):
        run_training(settings)
    assert "100 tensors of the backbone loaded; conv1.weight was skipped" in capsys.readouterr().out
    expected = load_checkpoint(weights)["model"]
    name = "backbone.resnet.layer3.0.conv1.weight"
    assert torch.equal(first["state"][name], expected[name])
    weights.unlink()
    run_training(settings)
    assert "tensors" not in capsys.readouterr().out


def test_weights_of_another_network_are_refused_before_anything_is_written(discs, finished, tmp_path):
    settings = make_settings(discs, tmp_path / "run", init=finished / "checkpoints/last", backbone="resnet34")
    with pytest.raises(UserError, match="the weights of another network"):
        run_training(settings)
    assert not (tmp_path / "run/config.json").exists()


def test_resumed_run_repeats_the_steps_after_the_last_checkpoint(discs, finished, tmp_path, monkeypatch):
    settings = make_settings(discs, tmp_path / "run", checkpoint_every=100)
    with stopped_before(5, Trainer, monkeypatch):
        run_training(settings)
    assert load_checkpoint(tmp_path / "run/checkpoints/last")["step"] == 3
    run_training(settings)
    assert read_metrics(tmp_path / "run") == read_metrics(finished)


def test_finished_run_is_not_changed(discs, finished):
    before = {
        path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and "tensorboard" not in str(path)
    }
    run_training(make_settings(discs, finished))
    assert {path: path.read_bytes() for path in before} == before


def test_run_interrupted_after_its_last_step_gets_its_result_on_resuming(discs, finished, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    (output / "result.json").unlink()
    result = run_training(make_settings(discs, output))
    expected = json.loads((finished / "result.json").read_text())
    assert {name: result[name] for name in ("steps", "loss", "chance")} == {
        name: expected[name] for name in ("steps", "loss", "chance")
    }


def test_resuming_with_other_settings_raises_an_error_that_names_them(discs, finished):
    with pytest.raises(UserError, match="with other settings: epochs was 2, is 3; seed was 0, is 1"):
        run_training(make_settings(discs, finished, epochs=3, seed=1))


def test_run_with_a_damaged_sample_resumes_with_skip_damaged(tmp_path):
    data = make_dataset(tmp_path / "discs", [12, 12])
    overwrite_member(data, "train-000001.tar", "000000013", "jpg")
    with pytest.raises(UserError, match="or resume with --skip-damaged"):
        run_training(make_settings(data, tmp_path / "run"))
    run_training(make_settings(data, tmp_path / "run", skip_damaged=True))
    assert sum(line.get("skipped", 0) for line in read_metrics(tmp_path / "run")) == 2  # once per epoch


def test_resuming_with_other_data_raises_an_error(finished, tmp_path):
    other = make_dataset(tmp_path / "other", [12])
    with pytest.raises(UserError, match=r"data was .*; dataset was"):
        run_training(make_settings(other, finished))


def test_checkpoint_of_another_recipe_raises_an_error(discs, finished, tmp_path):
    output = tmp_path / "run"
    (output / "checkpoints").mkdir(parents=True)
    (output / "checkpoints/last").write_bytes((finished / "checkpoints/last").read_bytes())
    with pytest.raises(UserError, match="a checkpoint of the recipe contrastive, found contrastive-attn-teacher"):
        run_training(make_settings(discs, output, recipe="contrastive"))


def test_fewer_samples_than_a_batch_raise_an_error_before_anything_is_written(discs, tmp_path):
    with pytest.raises(UserError, match="--batch-size 64: the data set has only 36 samples"):
        run_training(make_settings(discs, tmp_path / "run", batch_size=64))
    assert not (tmp_path / "run").exists()


def test_probe_without_classes_raises_an_error(tmp_path):
    data = make_dataset(tmp_path / "data", [12], classes=None)
    with pytest.raises(UserError, match=r"--probe: the samples of .* have no classes"):
        run_training(make_settings(data, tmp_path / "run", probe=True))


def test_without_classes_there_is_no_probe_and_the_best_checkpoint_has_the_lowest_loss(tmp_path):
    data = make_dataset(tmp_path / "data", [12], classes=None)
    run_training(make_settings(data, tmp_path / "run"))
    assert "probe_accuracy" not in read_metrics(tmp_path / "run")[0]
    epochs = [line["means"]["loss"] for line in read_metrics(tmp_path / "run") if "means" in line]
    assert load_checkpoint(tmp_path / "run/checkpoints/best")["step"] == 1 + epochs.index(min(epochs))


def test_nan_loss_stops_the_run_and_leaves_the_last_good_checkpoint(discs, tmp_path, monkeypatch):
    train_step = Trainer.train_step

    def train_step_with_nan(self, batch):
        if self.step == 4:
            next(self.model.parameters()).data.fill_(float("nan"))
        return train_step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", train_step_with_nan)
    with pytest.raises(UserError, match=r"step 5: the loss is not finite .* the samples were 0000000\d\d, "):
        run_training(make_settings(discs, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run/checkpoints/last")["step"] == 4


def test_missing_output_raises_an_error(discs):
    settings = load_settings(TrainSettings, ["--data", str(discs)])
    with pytest.raises(UserError, match="--output is needed: the folder of the run that trains on"):
        run_training(settings)


def test_demo_without_its_data_raises_an_error_with_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"make it with python -m labeler\.run --input demo:scenes"):
        run_training(load_settings(TrainSettings, []))


def test_unknown_recipe_raises_an_error_that_lists_all_recipes(discs, tmp_path):
    with pytest.raises(UserError, match="--recipe contrast: expected one of byol, byol-attn-teacher, contrastive, "):
        run_training(make_settings(discs, tmp_path / "run", recipe="contrast"))


def test_infinite_gradient_stops_the_run_before_the_weights_are_updated(discs, tmp_path, monkeypatch):
    backward = Trainer._backward

    def backward_with_infinity(self, inputs):
        terms = backward(self, inputs)
        if self.step == 4:
            next(self.model.parameters()).grad[0] = float("inf")
        return terms

    monkeypatch.setattr(Trainer, "_backward", backward_with_infinity)
    with pytest.raises(
        UserError, match=r"step 5: the gradient norm is not finite \(it is inf\); the samples were 0000"
    ):
        run_training(make_settings(discs, tmp_path / "run"))
    saved = load_checkpoint(tmp_path / "run/checkpoints/last")
    assert saved["step"] == 4
    assert all(weights.isfinite().all() for weights in saved["model"].values())


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_truncated_file_of_a_run_is_named_in_the_error(discs, finished, tmp_path, name):
    output = shutil.copytree(finished, tmp_path / "run")
    (output / name).write_text('{"recipe": "contr')
    with pytest.raises(UserError, match=f"{name}: cannot be read: .*; remove it"):
        run_training(make_settings(discs, output))


def test_micro_batch_of_one_image_with_batch_norm_raises_an_error(discs, tmp_path):
    with pytest.raises(UserError, match="--micro-batch 1: batch norm needs two or more images at once"):
        run_training(make_settings(discs, tmp_path / "run", micro_batch=1))


def test_file_that_is_not_a_checkpoint_is_named_in_the_error(discs, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "run")
    (output / "checkpoints/last").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/last: expected a checkpoint .*, found an empty file; restore it"):
        run_training(make_settings(discs, output))
    torch.save({}, output / "checkpoints/last")
    with pytest.raises(UserError, match="checkpoints/last: expected a checkpoint of the recipe"):
        run_training(make_settings(discs, output))
