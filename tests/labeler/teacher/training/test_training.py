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
from labeler.teacher.training.data import open_training_data
from labeler.teacher.training.examples import TARGET_SIZE
from labeler.teacher.training.initialize import initialize_random_teacher
from labeler.teacher.training.loop import BEST_WEIGHTS, LAST_CHECKPOINT
from labeler.teacher.training.run import train_teacher
from labeler.teacher.training.trainer import TeacherTrainer, teacher_loss
from labeler.teacher.weights import load_teacher
from tests.support.stops import Stop, stopped_before

SINGLE_RANK = Rank(0, 1, torch.device("cpu"))


def make_settings(folder, output, **changes):
    """Return settings for a quick run: small images and 2 steps per epoch."""
    values = {
        "data": f"csv:{folder / 'people'}",
        "output": output,
        "epochs": 2,
        "batch_size": 4,
        "input_scale": 0.1,
        "checkpoint_every": 1,
    } | changes
    return load_settings(
        TeacherTrainSettings, [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    )


def read_metrics(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    train_teacher(make_settings(folder, output))
    return output


def test_saved_weights_are_the_best_ones_in_half_precision(whole):
    teacher = load_teacher(str(whole / "teacher.safetensors"))
    best = safetensors.torch.load_file(whole / BEST_WEIGHTS)
    assert all(torch.equal(best[name].half().float(), weights) for name, weights in teacher.state_dict().items())
    assert (whole / "teacher.safetensors").stat().st_size < 1_500_000
    assert len((whole / "validation.txt").read_text().split()) == 2
    assert any((whole / "tensorboard").iterdir())


def test_metrics_hold_every_step_and_the_validation_of_every_epoch(whole):
    lines = read_metrics(whole)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    validation = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in validation] == [1, 2]
    scores = next(value for name, value in validation[0].items() if name.startswith("validation csv:"))
    assert set(scores) == {"cc", "nss"}


@pytest.mark.parametrize("step", [1, 3])
def test_interrupted_run_resumes_with_the_same_metrics_and_weights(folder, whole, tmp_path, monkeypatch, step):
    settings = make_settings(folder, tmp_path / "run")
    with stopped_before(step, TeacherTrainer, monkeypatch):
        train_teacher(settings)
    train_teacher(settings)
    assert read_metrics(tmp_path / "run") == read_metrics(whole)
    resumed, expected = (safetensors.torch.load_file(run / "teacher.safetensors") for run in (tmp_path / "run", whole))
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_checkpoint_holds_the_best_validation_score(whole):
    scores = [
        next(value["cc"] for name, value in line.items() if name.startswith("validation"))
        for line in read_metrics(whole)
        if "epoch" in line
    ]
    assert load_checkpoint(whole / LAST_CHECKPOINT)["best"] == max(scores)


def test_resuming_with_other_settings_is_a_user_error_that_names_them(folder, whole):
    with pytest.raises(
        UserError, match="holds a run with other settings: seed was 0, is 1; epochs was 2, is 3; choose"
    ):
        train_teacher(make_settings(folder, whole, epochs=3, seed=1))


def test_training_starts_from_the_weights_that_init_names(folder, whole, tmp_path, monkeypatch):
    initial = []

    def record_weights(self, batch, total_steps):
        initial.append({name: weights.clone() for name, weights in self.student.state_dict().items()})
        raise Stop

    monkeypatch.setattr(TeacherTrainer, "train_step", record_weights)
    with pytest.raises(Stop):
        train_teacher(make_settings(folder, tmp_path / "run", init=whole / "teacher.safetensors"))
    expected = load_teacher(str(whole / "teacher.safetensors")).state_dict()
    assert all(torch.equal(initial[0][name], expected[name]) for name in expected)


def test_init_with_another_network_is_a_user_error(folder, tmp_path):
    with pytest.raises(
        UserError, match=r"--init tests\.support\.teachers:gradient_teacher: expected weights of this project's teacher"
    ):
        train_teacher(make_settings(folder, tmp_path / "run", init="tests.support.teachers:gradient_teacher"))


def test_student_approaches_the_distillation_teacher_without_fixations(folder, tmp_path):
    settings = make_settings(
        folder, tmp_path / "run", distill=folder / "more", distill_images=32, learning_rate=0.01, warmup=0
    )
    data = open_training_data(settings.data, settings.distill, settings.validation, settings.seed)
    distillation_teacher = load_teacher("tests.support.simple_teachers:Brightness")
    trainer = TeacherTrainer(settings, initialize_random_teacher(0), distillation_teacher, SINGLE_RANK)
    batch = next(batch for batch in Batches(settings, data, 0, 1, 1).from_step(0) if not batch.has_fixations.any())
    brightness = distillation_teacher.predict(batch.pixels.float() / 255)[0][:, None]
    target = interpolate(brightness, TARGET_SIZE, mode="bilinear", antialias=True)[:, 0]
    divergence = [trainer.train_step(batch, 1000)["kld"] for _ in range(20)]
    with torch.no_grad():
        maps = trainer.student(trainer.resize_images(batch.pixels.float() / 255))
    assert kld(maps, target).mean() < 0.7 * divergence[0]


def test_run_takes_a_distillation_teacher_by_name(folder, tmp_path):
    settings = make_settings(
        folder,
        tmp_path / "run",
        distill=folder / "more",
        distill_teacher="tests.support.simple_teachers:Brightness",
        epochs=1,
    )
    train_teacher(settings)
    assert len([line for line in read_metrics(tmp_path / "run") if "loss" in line]) == 4


def test_diverging_run_is_a_user_error_and_preserves_the_last_checkpoint(folder, tmp_path, monkeypatch):
    train_step = TeacherTrainer.train_step

    def train_with_nan_weights(self, batch, total_steps):
        if self.step == 2:
            next(self.student.parameters()).data.fill_(float("nan"))
        return train_step(self, batch, total_steps)

    monkeypatch.setattr(TeacherTrainer, "train_step", train_with_nan_weights)
    with pytest.raises(UserError, match=r"step 3: training diverged \(.*\); start again .* lower --learning-r"):
        train_teacher(make_settings(folder, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / LAST_CHECKPOINT)["step"] == 2


def test_nan_gradient_does_not_reach_the_weights(folder, tmp_path, monkeypatch):
    train_step = TeacherTrainer.train_step

    def train_with_nan_gradient(self, batch, total_steps):
        if self.step == 2:
            next(self.student.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return train_step(self, batch, total_steps)

    monkeypatch.setattr(TeacherTrainer, "train_step", train_with_nan_gradient)
    with pytest.raises(UserError, match="step 3: training diverged"):
        train_teacher(make_settings(folder, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / LAST_CHECKPOINT)["step"] == 2


def test_output_on_s3_is_a_user_error_and_nothing_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--output s3://bucket/run: expected a local folder"):
        train_teacher(make_settings(folder, "s3://bucket/run"))
    assert not (tmp_path / "s3:").exists()


def test_truncated_settings_file_is_a_user_error_that_names_it(folder, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read: .*; remove it"):
        train_teacher(make_settings(folder, tmp_path))


def test_random_weights_give_faint_maps_and_unsaturated_gates():
    teacher = initialize_random_teacher(0)
    images = torch.rand(1, 3, 96, 128)
    gates = []
    for module in teacher.modules():
        if isinstance(module, SqueezeExcite):
            module.expand.register_forward_hook(lambda module, inputs, output: gates.append(output))
    assert teacher.logits(images).sigmoid().mean().item() == pytest.approx(0.02, abs=0.01)
    assert len(gates) == 7
    assert all(((gate > -3) & (gate < 3)).float().mean() > 0.9 for gate in gates)  # where hard-sigmoid has a gradient


def test_random_weights_are_a_function_of_the_seed():
    first, same, other = (initialize_random_teacher(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["stem.0.0.weight"], other["stem.0.0.weight"])


def test_image_without_fixations_counts_as_an_nss_of_0():
    maps, targets = torch.rand(2, 12, 16), torch.rand(2, 12, 16)
    center, empty = np.array([[0.5, 0.5]]), np.empty((0, 2))
    both = teacher_loss(maps, targets, [center, empty], 0.1)
    first = teacher_loss(maps[:1], targets[:1], [center], 0.1)
    torch.testing.assert_close(both.nss, first.nss / 2)


def test_biases_and_norms_do_not_decay(folder, whole):
    trainer = TeacherTrainer(make_settings(folder, whole), AttentionTeacher(), None, SINGLE_RANK)
    decayed, not_decayed = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.01, 0.0)
    norms = [module for module in trainer.student.modules() if isinstance(module, nn.GroupNorm)]
    norm_parameters = {id(parameter) for norm in norms for parameter in norm.parameters()}
    assert norm_parameters <= {id(parameter) for parameter in not_decayed["params"]}
