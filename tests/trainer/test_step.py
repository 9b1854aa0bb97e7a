import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from tests.support.data.datasets import make_dataset
from tests.support.ranks import run_ranks
from tests.support.training import CPU, make_trainer, train_steps
from trainer import step
from trainer.objectives import AttentionObjective, ProbeObjective
from trainer.recipes import recipe_names
from trainer.step import prepare_inputs, split_pieces

CURVES = Path(__file__).parent  # to record a curve again, delete its file and run the test twice


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])


@pytest.mark.parametrize(("norm", "steps", "tolerance"), [("batch", 5, 1e-4), ("group", 20, 1e-2)])
def test_losses_equal_a_recorded_curve(discs, norm, steps, tolerance):
    """Rounding differs between processors, and batch norm over twelve small images multiplies it by ten per step."""
    losses = [figures["loss"] for figures in train_steps(discs, steps, norm=norm)]
    curve = CURVES / f"recorded_curve_{norm}.json"
    if not curve.exists():
        curve.write_text(json.dumps(losses) + "\n")
        pytest.fail(f"{curve.name} did not exist; it has been written now")
    np.testing.assert_allclose(losses, json.loads(curve.read_text()), rtol=tolerance)


def test_training_is_deterministic(discs):
    assert train_steps(discs, 4) == train_steps(discs, 4)


@pytest.mark.parametrize("size", [1, 5, 6])
def test_micro_batches_train_like_whole_batches_with_group_norm(discs, size):
    whole = train_steps(discs, 4, norm="group")
    pieces = train_steps(discs, 4, norm="group", micro_batch=size)
    for actual, expected in zip(pieces, whole, strict=True):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "contrastive-contracam"])
def test_micro_batches_train_like_whole_batches_with_each_recipe(discs, recipe):
    whole, pieces = (train_steps(discs, 2, norm="group", recipe=recipe, micro_batch=size) for size in (None, 6))
    assert pieces[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-5)


def test_batch_with_fewer_clean_images_than_views_is_split_into_pieces(discs):
    _, stream = make_trainer(discs, norm="group", recipe="contrastive-attn-cotrain")
    inputs = prepare_inputs(next(stream.batches(0, 1)), CPU)
    inputs = inputs._replace(clean=inputs.clean[:5], attention=inputs.attention[:5], gaze=inputs.gaze[:5])
    whole, pieces = split_pieces(inputs, None), split_pieces(inputs, 4)
    assert [len(clean) for _, clean in whole] == [5]
    assert [(len(views[0]), len(views[1]), len(clean)) for views, clean in pieces] == [(4, 4, 2), (4, 4, 2), (4, 4, 1)]
    with pytest.raises(UserError, match=r"--micro-batch 2: a worker's 12 images .* choose 3 or more"):
        split_pieces(inputs, 2)


def test_each_image_counts_once_in_the_statistics_of_batch_norm_if_a_step_is_made_in_pieces(discs):
    trainer, stream = make_trainer(discs, micro_batch=6)
    norm, means = trainer.model.backbone.resnet.bn1, []

    def record_mean(module, inputs):
        if torch.is_grad_enabled():  # in the second pass; the first has no graph
            means.append(inputs[0].mean((0, 2, 3)).detach())

    norm.register_forward_pre_hook(record_mean)
    trainer.train_step(next(stream.batches(0, 1)))
    assert len(means) == 4  # views and clean images of two pieces
    expected = torch.zeros_like(means[0])
    for mean in means[::2]:  # those of the views
        expected = 0.9 * expected + 0.1 * mean
    torch.testing.assert_close(norm.running_mean, expected)


@pytest.mark.parametrize("micro_batch", [None, 6])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_network_computes_in_the_chosen_precision_and_losses_in_float32(discs, precision, dtype, micro_batch):
    trainer, stream = make_trainer(discs, precision=precision, micro_batch=micro_batch)
    computed, outputs, loss_terms = set(), {}, trainer.model.loss_terms

    def record_outputs(joined, inputs):
        outputs.update(joined)
        return loss_terms(joined, inputs)

    for module in trainer.model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda module, inputs, output: computed.add(output.dtype))
    trainer.model.loss_terms = record_outputs
    metrics = trainer.train_step(next(stream.batches(0, 1)))
    assert computed == {dtype}
    assert {output.dtype for output in outputs.values()} == {torch.float32}
    is_rounded = {name: torch.equal(output, output.bfloat16().float()) for name, output in outputs.items()}
    assert is_rounded["first"] == (dtype == torch.bfloat16)
    assert {weights.dtype for weights in trainer.model.parameters()} == {torch.float32}
    [expected] = train_steps(discs, 1, precision="float32", micro_batch=micro_batch)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=0.03)
    assert (metrics["loss"] == expected["loss"]) == (dtype == torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")
def test_network_computes_in_bfloat16_on_a_gpu_by_default(discs):
    trainer, stream = make_trainer(discs, device=torch.device("cuda"))
    computed = set()
    trainer.model.backbone.resnet.conv1.register_forward_hook(lambda module, inputs, out: computed.add(out.dtype))
    trainer.train_step(next(stream.batches(0, 1)))
    assert computed == {torch.bfloat16}


@pytest.mark.parametrize(
    ("device", "world_size", "norm", "synchronized"),
    [("cuda", 2, "batch", True), ("cuda", 1, "batch", False), ("cpu", 2, "batch", False), ("cuda", 2, "group", False)],
)
def test_batch_norm_is_synchronized_over_several_gpus(discs, monkeypatch, device, world_size, norm, synchronized):
    """The model stays on the CPU and without a process group: only the choice of its norms is tested."""
    monkeypatch.setattr(nn.Module, "to", lambda module, *arguments, **options: module)
    monkeypatch.setattr(step, "DistributedDataParallel", lambda model: model)
    trainer, _ = make_trainer(discs, 0, world_size, torch.device(device), norm=norm)
    norms = {
        type(module)
        for module in trainer.model.modules()
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm))
    }
    assert (nn.SyncBatchNorm in norms) == synchronized
    if synchronized:  # the probe standardizes features of all ranks as well
        assert norms == {nn.SyncBatchNorm}


# contrastive-attn-permuted exchanges maps within the batch of a rank, so its targets depend on the number of ranks
SAME_OVER_RANKS = [name for name in recipe_names() if name != "contrastive-attn-permuted"]


def train_all_recipes(discs, rank, world_size):
    return [train_steps(discs, 2, rank, world_size, norm="group", recipe=name) for name in SAME_OVER_RANKS]


def test_two_ranks_train_like_one_with_group_norm(discs):
    """No recipe blocks in the synchronization of gradients because a parameter gets none."""
    metrics = run_ranks(2, train_all_recipes, discs)
    assert metrics[0] == metrics[1]
    for name, curve in zip(SAME_OVER_RANKS, metrics[0], strict=True):
        for actual, expected in zip(curve, train_steps(discs, 2, norm="group", recipe=name), strict=True):
            assert actual == pytest.approx(expected, rel=1e-3, abs=1e-5), name


def train_one_step(discs, changes, with_points=12, rank=0, world_size=1):
    """Return metrics and gradients of the first step; only the batch's first `with_points` images have gaze points."""
    trainer, stream = make_trainer(discs, rank, world_size, norm="group", **changes)
    batch = next(stream.batches(0, 1))
    first = rank * len(batch.keys)
    gaze = [points if first + row < with_points else points[:0] for row, points in enumerate(batch.gaze)]
    metrics = trainer.train_step(batch._replace(gaze=gaze))
    return metrics, {
        name: parameter.grad.flatten().numpy()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }


def assert_equal_gradients(actual, expected):
    """Compare gradients by parameter up to rounding."""
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        tolerance = 1e-3 * np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("world_size", [2, 4])
def test_gradients_over_ranks_are_those_of_one_if_points_are_unevenly_distributed(discs, world_size):
    """The last rank has no image with points."""
    changes, with_points = {"recipe": "contrastive-attn-teacher", "nss_weight": 10}, 5
    metrics, expected = train_one_step(discs, changes, with_points)
    for actual, gradients in run_ranks(world_size, train_one_step, discs, changes, with_points):
        assert actual == pytest.approx(metrics, rel=1e-4, abs=1e-5)
        assert_equal_gradients(gradients, expected)


def test_gradients_of_two_ranks_in_pieces_are_those_of_the_whole_batch_on_one(discs):
    _, expected = train_one_step(discs, {})
    for _, gradients in run_ranks(2, train_one_step, discs, {"micro_batch": 2}, 12):  # three pieces on each rank
        assert_equal_gradients(gradients, expected)


@pytest.mark.parametrize("peak", [0.5, 4.0])
def test_learning_rate_of_probe_and_read_out_does_not_depend_on_that_of_the_network(discs, peak):
    trainer, stream = make_trainer(discs, learning_rate=peak, warmup_epochs=0, batch_size=16)
    for batch in stream.batches(0, 3):
        trainer.train_step(batch)
    probe, combine = (
        trainer.model.objective(ProbeObjective).probe,
        trainer.model.objective(AttentionObjective).readout.combine,
    )
    rates = {id(weights): group["lr"] for group in trainer.optimizer.param_groups for weights in group["params"]}
    cosine = 0.5 * (1 + math.cos(math.pi * 2 / trainer.schedule.steps))  # in the third step
    for parameter in (*probe.parameters(), *combine.parameters()):
        assert rates.pop(id(parameter)) == pytest.approx(0.1 * 16 / 256 * cosine)
    assert list(rates.values()) == pytest.approx([peak * cosine] * len(rates))


@pytest.mark.parametrize("recipe", recipe_names())
def test_each_recipe_updates_all_its_parameters(discs, recipe):
    trainer, stream = make_trainer(discs, recipe=recipe, learning_rate=1.0)
    trained = {name: weights for name, weights in trainer.model.named_parameters() if weights.requires_grad}
    before = {name: weights.detach().clone() for name, weights in trained.items()}
    for batch in itertools.islice(stream.batches(0, 3), 3):
        trainer.train_step(batch)
    assert not [name for name, weights in trained.items() if torch.equal(weights, before[name])]
