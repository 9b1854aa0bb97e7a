import json
import shutil

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from common.training import load_checkpoint
from tests.support.datasets import make_dataset, overwrite_member
from tests.support.stops import stopped_before
from trainer.config import TrainSettings
from trainer.job import run_training
from trainer.loop import warn_of_slow_bfloat16
from trainer.step import Trainer

TIMES = ("images_per_second", "waited", "memory_gb", "seconds")


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [10, 14, 12])


def settings(discs, output, **changes):
    chosen = {
        "data": discs,
        "backbone": "resnet18",
        "image_size": 32,
        "batch_size": 12,
        "epochs": 2,
        "warmup_epochs": 1,
        "output": output,
        "checkpoint_every": 1,
    } | changes
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in chosen.items()]
    return load_settings(TrainSettings, flags)


def curve(output):
    """The lines of a run's log, without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def whole(discs, tmp_path_factory):
    """A run that never stopped."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    run_training(settings(discs, output))
    return output


def test_a_run_leaves_its_settings_figures_checkpoints_and_result(discs, whole):
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert {"config.json", "metrics.jsonl", "checkpoints/last", "checkpoints/best", "result.json"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    config = json.loads((whole / "config.json").read_text())
    assert (config["recipe"], config["batch_size"], len(config["dataset"])) == ("contrastive-attn-teacher", 12, 64)
    steps = [line for line in map(json.loads, (whole / "metrics.jsonl").open()) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    wanted = {"loss", "contrastive", "kld", "nss", "probe_accuracy", "learning_rate", "images_per_second", "waited"}
    assert all(wanted | {"memory_gb"} <= line.keys() for line in steps)
    result = json.loads((whole / "result.json").read_text())
    assert (result["steps"], result["samples"], result["chance"]) == (6, 36, 0.25)


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_a_run_that_was_stopped_ends_like_one_that_never_was(discs, whole, tmp_path, monkeypatch, step):
    chosen = settings(discs, tmp_path / "run")
    with stopped_before(step, Trainer, monkeypatch):
        run_training(chosen)
    run_training(chosen)
    assert curve(tmp_path / "run") == curve(whole)
    for name in ("last", "best"):
        ours, theirs = (load_checkpoint(run / "checkpoints" / name)["model"] for run in (tmp_path / "run", whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_steps_after_the_last_checkpoint_are_made_again(discs, whole, tmp_path, monkeypatch):
    chosen = settings(discs, tmp_path / "run", checkpoint_every=100)
    with stopped_before(5, Trainer, monkeypatch):
        run_training(chosen)
    assert load_checkpoint(tmp_path / "run/checkpoints/last")["step"] == 3
    run_training(chosen)
    assert curve(tmp_path / "run") == curve(whole)


def test_a_finished_run_is_left_as_it_is(discs, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "tensorboard" not in str(path)}
    run_training(settings(discs, whole))
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_stopped_after_its_last_step_still_gets_its_result(discs, whole, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    (output / "result.json").unlink()
    result = run_training(settings(discs, output))
    expected = json.loads((whole / "result.json").read_text())
    assert {name: result[name] for name in ("steps", "loss", "chance")} == {
        name: expected[name] for name in ("steps", "loss", "chance")
    }


def test_other_settings_are_refused_by_name(discs, whole):
    with pytest.raises(UserError, match="with other settings: epochs was 2, is 3; seed was 0, is 1"):
        run_training(settings(discs, whole, epochs=3, seed=1))


def test_a_run_that_met_a_damaged_sample_goes_on_without_it(tmp_path):
    data = make_dataset(tmp_path / "discs", [12, 12])
    overwrite_member(data, "train-000001.tar", "000000013", "jpg")
    with pytest.raises(UserError, match="go on without with --skip-damaged"):
        run_training(settings(data, tmp_path / "run"))
    run_training(settings(data, tmp_path / "run", skip_damaged=True))
    assert sum(line.get("skipped", 0) for line in curve(tmp_path / "run")) == 2  # once an epoch


def test_other_data_are_refused(whole, tmp_path):
    other = make_dataset(tmp_path / "other", [12])
    with pytest.raises(UserError, match=r"data was .*; dataset was"):
        run_training(settings(other, whole))


def test_a_checkpoint_of_another_recipe_is_refused(discs, whole, tmp_path):
    output = tmp_path / "run"
    (output / "checkpoints").mkdir(parents=True)
    (output / "checkpoints/last").write_bytes((whole / "checkpoints/last").read_bytes())
    with pytest.raises(UserError, match="a checkpoint of the recipe contrastive, found contrastive-attn-teacher"):
        run_training(settings(discs, output, recipe="contrastive"))


def test_fewer_samples_than_a_batch_are_refused_before_anything_is_written(discs, tmp_path):
    with pytest.raises(UserError, match="--batch-size 64: the data hold only 36 samples"):
        run_training(settings(discs, tmp_path / "run", batch_size=64))
    assert not (tmp_path / "run").exists()


def test_a_probe_without_classes_is_refused(tmp_path):
    data = make_dataset(tmp_path / "data", [12], classes=None)
    with pytest.raises(UserError, match=r"--probe: the samples of .* have no classes"):
        run_training(settings(data, tmp_path / "run", probe=True))


def test_without_classes_there_is_no_probe_and_the_best_has_the_lowest_loss(tmp_path):
    data = make_dataset(tmp_path / "data", [12], classes=None)
    run_training(settings(data, tmp_path / "run"))
    assert "probe_accuracy" not in curve(tmp_path / "run")[0]
    epochs = [line["means"]["loss"] for line in curve(tmp_path / "run") if "means" in line]
    assert load_checkpoint(tmp_path / "run/checkpoints/best")["step"] == 1 + epochs.index(min(epochs))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(discs, tmp_path, monkeypatch):
    learn = Trainer.train_step

    def poisoned(self, batch):
        if self.step == 4:
            next(self.model.parameters()).data.fill_(float("nan"))
        return learn(self, batch)

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    with pytest.raises(UserError, match=r"step 5: the loss is not finite .* the samples were 0000000\d\d, "):
        run_training(settings(discs, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run/checkpoints/last")["step"] == 4


def test_an_output_that_is_not_named_is_asked_for(discs):
    chosen = load_settings(TrainSettings, ["--data", str(discs)])
    with pytest.raises(UserError, match="--output is needed: the folder of the run that trains on"):
        run_training(chosen)


def test_the_demo_says_what_makes_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"make it with python -m labeler\.run --input demo:scenes"):
        run_training(load_settings(TrainSettings, []))


def test_an_unknown_recipe_lists_those_there_are(discs, tmp_path):
    with pytest.raises(UserError, match="--recipe contrast: expected one of contrastive, contrastive-attn-block, "):
        run_training(settings(discs, tmp_path / "run", recipe="contrast"))


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(discs, tmp_path, monkeypatch):
    backward = Trainer._backward

    def poisoned(self, inputs):
        terms = backward(self, inputs)
        if self.step == 4:
            next(self.model.parameters()).grad[0] = float("inf")
        return terms

    monkeypatch.setattr(Trainer, "_backward", poisoned)
    with pytest.raises(
        UserError, match=r"step 5: the gradient norm is not finite \(it is inf\); the samples were 0000"
    ):
        run_training(settings(discs, tmp_path / "run"))
    kept = load_checkpoint(tmp_path / "run/checkpoints/last")
    assert kept["step"] == 4
    assert all(weights.isfinite().all() for weights in kept["model"].values())


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_file_of_a_run_that_was_cut_off_is_named(discs, whole, tmp_path, name):
    output = shutil.copytree(whole, tmp_path / "run")
    (output / name).write_text('{"recipe": "contr')
    with pytest.raises(UserError, match=f"{name}: cannot be read: .*; remove it"):
        run_training(settings(discs, output))


def test_one_image_at_once_is_too_few_for_batch_norm(discs, tmp_path):
    with pytest.raises(UserError, match="--micro-batch 1: batch norm needs two or more images at once"):
        run_training(settings(discs, tmp_path / "run", micro_batch=1))


def test_a_checkpoint_that_is_none_is_named(discs, whole, tmp_path):
    output = shutil.copytree(whole, tmp_path / "run")
    for content, message in ((b"", "cannot be read as a checkpoint"), (None, "expected a checkpoint of the recipe")):
        if content is None:
            torch.save({}, output / "checkpoints/last")
        else:
            (output / "checkpoints/last").write_bytes(content)
        with pytest.raises(UserError, match=f"checkpoints/last: {message}"):
            run_training(settings(discs, output))


def test_a_cpu_that_only_imitates_bfloat16_is_told_of(capsys):
    warn_of_slow_bfloat16("AVX512")
    assert capsys.readouterr().err == ""
    warn_of_slow_bfloat16("AVX2")
    assert "--precision bfloat16: this CPU (AVX2)" in capsys.readouterr().err
