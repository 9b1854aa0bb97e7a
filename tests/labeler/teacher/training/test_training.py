import json

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import interpolate

from common.errors import UserError
from common.launch import Rank
from common.saliency import kld
from common.settings import load_settings
from common.training import load_checkpoint
from labeler.teacher.model import AttentionTeacher, SqueezeExcite
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.config import TeacherTrainSettings
from labeler.teacher.training.examples import TARGET_SIZE, open_training_data
from labeler.teacher.training.loop import BEST, LAST, TeacherTrainer, teacher_loss
from labeler.teacher.training.run import initialize_randomly, train_teacher
from labeler.teacher.weights import load_teacher
from tests.support.stops import Stop, stopped_before

ALONE = Rank(0, 1, torch.device("cpu"))


def settings(folder, output, **changes):
    """Small pictures and few steps: 2 an epoch."""
    chosen = {
        "data": f"csv:{folder / 'people'}",
        "output": output,
        "epochs": 2,
        "batch_size": 4,
        "input_scale": 0.1,
        "checkpoint_every": 1,
    } | changes
    return load_settings(
        TeacherTrainSettings, [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    )


def curve(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A run that never stopped."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    train_teacher(settings(folder, output))
    return output


def test_a_run_leaves_weights_that_the_labelling_job_takes(whole):
    teacher = load_teacher(str(whole / "teacher.safetensors"))
    kept = safetensors.torch.load_file(whole / BEST)
    assert all(torch.equal(kept[name].half().float(), weights) for name, weights in teacher.state_dict().items())
    assert (whole / "teacher.safetensors").stat().st_size < 1_500_000
    assert len((whole / "validation.txt").read_text().split()) == 2
    assert any((whole / "tensorboard").iterdir())


def test_the_log_holds_every_step_and_every_epochs_validation(whole):
    lines = curve(whole)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    validation = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in validation] == [1, 2]
    scores = next(value for name, value in validation[0].items() if name.startswith("validation csv:"))
    assert set(scores) == {"cc", "nss"}


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_stopped_in_mid_epoch_ends_like_one_that_never_was(folder, whole, tmp_path, monkeypatch, step):
    chosen = settings(folder, tmp_path / "run")
    with stopped_before(step, TeacherTrainer, monkeypatch):
        train_teacher(chosen)
    train_teacher(chosen)
    assert curve(tmp_path / "run") == curve(whole)
    ours, theirs = (safetensors.torch.load_file(run / "teacher.safetensors") for run in (tmp_path / "run", whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_weights_of_the_best_epoch_are_kept(whole):
    scores = [
        next(value["cc"] for name, value in line.items() if name.startswith("validation"))
        for line in curve(whole)
        if "epoch" in line
    ]
    assert load_checkpoint(whole / LAST)["best"] == max(scores)


def test_other_settings_are_refused_by_name(folder, whole):
    with pytest.raises(
        UserError, match="holds a run with other settings: seed was 0, is 1; epochs was 2, is 3; choose"
    ):
        train_teacher(settings(folder, whole, epochs=3, seed=1))


def test_training_goes_on_from_a_teachers_weights(folder, whole, tmp_path, monkeypatch):
    first = []

    def seen(self, batch, steps):
        first.append({name: weights.clone() for name, weights in self.student.state_dict().items()})
        raise Stop

    monkeypatch.setattr(TeacherTrainer, "learn", seen)
    with pytest.raises(Stop):
        train_teacher(settings(folder, tmp_path / "run", init=whole / "teacher.safetensors"))
    expected = load_teacher(str(whole / "teacher.safetensors")).state_dict()
    assert all(torch.equal(first[0][name], expected[name]) for name in expected)


def test_weights_of_another_network_cannot_be_gone_on_from(folder, tmp_path):
    with pytest.raises(
        UserError, match=r"--init tests\.support\.teachers:gradient_teacher: expected weights of this teacher"
    ):
        train_teacher(settings(folder, tmp_path / "run", init="tests.support.teachers:gradient_teacher"))


def test_a_stronger_teachers_maps_are_learnt_where_there_are_no_fixations(folder, tmp_path):
    config = settings(
        folder, tmp_path / "run", distill=folder / "more", distill_images=32, learning_rate=0.01, warmup=0
    )
    data = open_training_data(config.data, config.distill, config.validation, config.seed)
    stronger = load_teacher("tests.support.seeing_teachers:Brightness")
    training = TeacherTrainer(config, initialize_randomly(0), stronger, ALONE)
    batch = next(batch for batch in Batches(config, data, 0, 1, 1).from_step(0) if not batch.labelled.any())
    brightness = stronger.predict(batch.pixels.float() / 255)[0][:, None]
    target = interpolate(brightness, TARGET_SIZE, mode="bilinear", antialias=True)[:, 0]
    divergence = [training.learn(batch, 1000)["kld"] for _ in range(20)]
    with torch.no_grad():
        maps = training.student(training.fitted(batch.pixels.float() / 255))
    assert kld(maps, target).mean() < 0.7 * divergence[0]


def test_a_run_takes_a_stronger_teacher_by_name(folder, tmp_path):
    chosen = settings(
        folder,
        tmp_path / "run",
        distill=folder / "more",
        distill_teacher="tests.support.seeing_teachers:Brightness",
        epochs=1,
    )
    train_teacher(chosen)
    assert len([line for line in curve(tmp_path / "run") if "loss" in line]) == 4


def test_a_training_that_diverges_says_so_and_keeps_its_last_checkpoint(folder, tmp_path, monkeypatch):
    learn = TeacherTrainer.learn

    def poisoned(self, batch, steps):
        if self.step == 2:
            next(self.student.parameters()).data.fill_(float("nan"))
        return learn(self, batch, steps)

    monkeypatch.setattr(TeacherTrainer, "learn", poisoned)
    with pytest.raises(UserError, match=r"step 3: the training diverged \(.*\); begin again .* lower --learning-r"):
        train_teacher(settings(folder, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / LAST)["step"] == 2


def test_a_gradient_that_is_no_number_reaches_no_weights(folder, tmp_path, monkeypatch):
    def spoiled(self, batch, steps):
        if self.step == 2:
            next(self.student.parameters()).register_hook(lambda slope: slope * float("nan"))
        return learn(self, batch, steps)

    learn = TeacherTrainer.learn
    monkeypatch.setattr(TeacherTrainer, "learn", spoiled)
    with pytest.raises(UserError, match="step 3: the training diverged"):
        train_teacher(settings(folder, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / LAST)["step"] == 2


def test_a_place_in_a_store_is_refused_before_anything_is_made(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--output s3://bucket/run: expected a local folder"):
        train_teacher(settings(folder, "s3://bucket/run"))
    assert not (tmp_path / "s3:").exists()


def test_settings_that_were_cut_off_are_named(folder, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read: .*; remove it"):
        train_teacher(settings(folder, tmp_path))


def test_random_weights_leave_every_gate_alive_and_the_maps_faint():
    teacher = initialize_randomly(0)
    picture = torch.rand(1, 3, 96, 128)
    gates = []
    for module in teacher.modules():
        if isinstance(module, SqueezeExcite):
            module.expand.register_forward_hook(lambda module, inputs, output: gates.append(output))
    assert teacher.logits(picture).sigmoid().mean() < 0.5
    assert len(gates) == 7
    assert all(((gate > -3) & (gate < 3)).float().mean() > 0.9 for gate in gates)  # where hard-sigmoid has a slope


def test_random_weights_are_a_function_of_the_seed():
    one, same, other = (initialize_randomly(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["stem.0.0.weight"], other["stem.0.0.weight"])


def test_an_image_without_fixations_adds_nothing_to_the_nss():
    maps, targets = torch.rand(2, 12, 16), torch.rand(2, 12, 16)
    point, none = np.array([[0.5, 0.5]]), np.empty((0, 2))
    both = teacher_loss(maps, targets, [point, none], 0.1)
    alone = teacher_loss(maps[:1], targets[:1], [point], 0.1)
    torch.testing.assert_close(both.nss, alone.nss / 2)


def test_biases_and_norms_do_not_decay(folder, whole):
    config = settings(folder, whole)
    training = TeacherTrainer(config, AttentionTeacher(), None, ALONE)
    decayed, others = training.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    norms = {
        id(one) for norm in training.student.modules() if isinstance(norm, nn.GroupNorm) for one in norm.parameters()
    }
    assert norms <= {id(one) for one in others["params"]}
