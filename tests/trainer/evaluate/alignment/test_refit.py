from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from common.errors import UserError
from common.settings import load_settings
from common.shards import decode_map, decode_points
from tests.support.data.datasets import make_dataset
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.evaluation import CLASSES, MODEL_NAMES, evaluate, read_results
from trainer.config import TrainSettings
from trainer.evaluate.alignment import teacher_maps
from trainer.evaluate.alignment.refit import NOTHING_TO_REFIT
from trainer.evaluate.alignment.teacher_maps import FIT_SIDE, draw_samples
from trainer.job import run_training

NAME = MODEL_NAMES[0]


@pytest.fixture
def fits(monkeypatch):
    """Return a list to which the inputs of every fit are appended."""
    collected = []
    original = teacher_maps.collect_fit_data

    def collect(context, model, select, samples):
        data = original(context, model, select, samples)
        collected.append((model.name, [str(sample["__key__"]) for sample in samples], data))
        return data

    monkeypatch.setattr("trainer.evaluate.alignment.refit.collect_fit_data", collect)
    return collected


def align(checkpoints, output, human, *flags):
    """Return the results of the suite by model."""
    evaluate(checkpoints, output, "--suite=alignment", f"--human-data={human}", *flags)
    results = read_results(output)
    return {name: result["alignment"][name] for name, result in results.items()}


def change_checkpoint(source: str, target: Path, change) -> str:
    state = torch.load(source, weights_only=True)
    change(state)
    torch.save(state, target)
    return str(target)


def saturate(state) -> None:
    """Set the read-out to parameters whose sigmoid is near 1 everywhere."""
    [weight] = [name for name in state["model"] if name.endswith("readout.combine.weight")]
    state["model"][weight] = torch.full_like(state["model"][weight], -1e-3)
    state["model"][weight.replace("weight", "bias")] = torch.tensor([6.0])


def test_refit_does_not_depend_on_the_trained_readout(checkpoints, human, tmp_path):
    saturated = change_checkpoint(checkpoints[0], tmp_path / "saturated", saturate)
    before = align(checkpoints[:1], tmp_path / "a", human)[NAME]
    after = align([saturated], tmp_path / "b", human)[NAME]
    assert after["readout_fit"] == before["readout_fit"]
    assert after["refit"] == before["refit"]
    assert after["as_trained"]["cc"] != before["as_trained"]["cc"]


def test_flag_selects_the_version_in_the_tables_and_results_have_both(checkpoints, human, tmp_path):
    refit = align(checkpoints, tmp_path / "refit", human)
    trained = align(checkpoints, tmp_path / "trained", human, "--readout=as-trained")
    for name in MODEL_NAMES:
        for version in ("refit", "as_trained"):
            assert refit[name][version] == trained[name][version]
        assert (refit[name]["readout"], trained[name]["readout"]) == ("refit", "as-trained")
        assert refit[name]["cc"] == refit[name]["refit"]["cc"]
        assert trained[name]["cc"] == trained[name]["as_trained"]["cc"] != refit[name]["cc"]
        assert refit[name]["readout_fit"].keys() == {"weights", "bias", "loss", "images", "data"}


def test_targets_are_the_maps_and_gaze_points_of_the_data_set(checkpoints, human, training_data, tmp_path, fits):
    align(checkpoints, tmp_path / "out", human)
    samples = {str(sample["__key__"]): sample for sample in draw_samples(str(training_data), 0)}
    assert [name for name, *_ in fits] == list(MODEL_NAMES)
    assert len(samples) == 16
    for _, keys, data in fits:
        assert sorted(keys) == sorted(samples)
        assert data.stage_maps.shape == (16, 3, FIT_SIDE, FIT_SIDE)
        for key, target, points in zip(keys, data.attention, data.gaze, strict=True):
            stored = torch.from_numpy(decode_map(samples[key]["attn.png"]).copy())[None, None].float()
            resized = torch.nn.functional.interpolate(stored, (FIT_SIDE, FIT_SIDE), mode="bilinear", antialias=True)
            torch.testing.assert_close(target, resized[0, 0])
            assert np.array_equal(points, decode_points(samples[key]["gaze.npy"]))


def test_fit_does_not_depend_on_the_human_data(checkpoints, human, tmp_path):
    other = write_fixation_data(tmp_path / "human", random_fixations(images=3, seed=9))
    first, second = (align(checkpoints, tmp_path / name, data) for name, data in (("a", human), ("b", other)))
    for name in MODEL_NAMES:
        assert first[name]["readout_fit"] == second[name]["readout_fit"]
        assert first[name]["cc"] != second[name]["cc"]


def test_labeled_training_set_is_preferred_to_the_recorded_one(checkpoints, human, training_data, val, tmp_path):
    other = make_dataset(tmp_path / "other", [6], CLASSES, first=100)
    preferred = align(checkpoints[:1], tmp_path / "a", human, f"--train={other}")[NAME]
    assert (preferred["readout_fit"]["images"], preferred["readout_fit"]["data"]) == (6, str(other))
    folders = align(checkpoints[:1], tmp_path / "b", human, f"--train={val}")[NAME]  # class folders have no maps
    assert (folders["readout_fit"]["images"], folders["readout_fit"]["data"]) == (16, str(training_data))


def test_recorded_data_set_serves_if_the_training_set_cannot_be_read(checkpoints, human, training_data, tmp_path):
    broken = make_dataset(tmp_path / "broken", [6], CLASSES)
    for shard in broken.rglob("*.tar"):
        shard.write_bytes(b"")
    result = align(checkpoints[:1], tmp_path / "out", human, f"--train={broken}")[NAME]
    assert result["readout_fit"]["data"] == str(training_data)


def test_model_is_measured_as_trained_if_no_data_set_can_be_read(checkpoints, human, tmp_path):
    moved = change_checkpoint(
        checkpoints[0], tmp_path / "moved", lambda state: state["config"].update(data=str(tmp_path / "gone"))
    )
    result = align([moved], tmp_path / "out", human)[NAME]
    assert result["readout"] == "as-trained"
    assert result["refit"] is result["readout_fit"] is None
    assert result["cc"] == result["as_trained"]["cc"]
    assert f"its read-out cannot be refit: {tmp_path / 'gone'}: expected a labeled data set" in result["readout_note"]
    [note] = read_results(tmp_path / "out")[NAME]["notes"]["alignment"]
    assert note.startswith(f"{NAME} is measured as trained: its read-out cannot be refit")
    assert f"{NAME} is measured as trained" in (tmp_path / "out/index.html").read_text()


def test_other_maps_than_those_of_a_readout_are_measured_as_they_are(training_data, human, tmp_path):
    flags = ["--backbone=resnet18", "--image-size=40", "--batch-size=16", "--epochs=1"]
    for recipe in ("contrastive-self-mask", "contrastive-attn-block"):
        output = tmp_path / recipe
        arguments = [f"--data={training_data}", f"--output={output}", f"--recipe={recipe}", *flags]
        run_training(load_settings(TrainSettings, arguments))
        [result] = align([str(output / "checkpoints/last")], tmp_path / f"{recipe}-report", human).values()
        assert result["refit"] is None
        assert result["readout_note"] == NOTHING_TO_REFIT
        assert result["cc"] == result["as_trained"]["cc"]


def test_plain_weights_get_a_readout_from_the_training_set(human, training_data, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "plain.pth")
    flags = ["--backbone=resnet18", "--image-size=32"]
    [fitted] = align([str(tmp_path / "plain.pth")], tmp_path / "a", human, f"--train={training_data}", *flags).values()
    assert fitted["readout_fit"]["images"] == 16
    assert fitted["cc"] == fitted["refit"]["cc"] != fitted["as_trained"]["cc"]
    [unfitted] = align([str(tmp_path / "plain.pth")], tmp_path / "b", human, *flags).values()
    assert unfitted["readout"] == "as-trained"
    assert unfitted["readout_note"].endswith("expected a labeled data set as --train, found none")


def test_images_are_drawn_by_the_seed_without_repetition(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_maps, "FIT_IMAGES", 10)
    for name, sizes in (("several shards", [4] * 6), ("one shard", [24])):
        data = make_dataset(tmp_path / name, sizes, CLASSES)
        drawn = [[str(sample["__key__"]) for sample in draw_samples(str(data), seed)] for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(set(drawn[0])) == 10


def test_samples_that_cannot_be_decoded_are_skipped(checkpoints, human, tmp_path, monkeypatch):
    original = teacher_maps.decode_sample

    def fail_at_some(sample, classes):
        if str(sample["__key__"]).endswith(("1", "2")):
            raise ValueError("damaged")
        return original(sample, classes)

    monkeypatch.setattr(teacher_maps, "decode_sample", fail_at_some)
    fit = align(checkpoints[:1], tmp_path / "out", human)[NAME]["readout_fit"]
    assert fit["images"] == 16 - 4  # numbers 1, 2, 11 and 12
    monkeypatch.setattr(teacher_maps, "decode_sample", lambda sample, classes: fail_at_some({"__key__": "1"}, None))
    result = align(checkpoints[:1], tmp_path / "none", human)[NAME]
    assert result["readout_note"].endswith("none of 16 samples can be decoded")


def test_features_with_nan_are_reported_with_the_checkpoint(checkpoints, human, tmp_path, monkeypatch):
    original = teacher_maps.stack_stage_maps
    monkeypatch.setattr(teacher_maps, "stack_stage_maps", lambda *arguments: original(*arguments) * float("nan"))
    with pytest.raises(UserError, match="best: expected finite numbers as features, found NaN or infinity; its"):
        align(checkpoints[:1], tmp_path / "out", human)
