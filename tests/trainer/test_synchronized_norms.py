"""Tests of batch norm over all ranks, as SyncBatchNorm computes it on GPUs.

PyTorch refuses to run SyncBatchNorm on CPUs, so its forward pass is replaced by its definition where ranks train.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

from common.training import load_checkpoint, save_checkpoint
from tests.support.data.datasets import make_dataset
from tests.support.ranks import run_ranks
from tests.support.training import make_trainer
from trainer.model.batch_norm import frozen_statistics
from trainer.model.heads import LinearProbe
from trainer.step import Trainer

NORMS = nn.modules.batchnorm._BatchNorm


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])


def synchronized(trainer):
    """Return a trainer like the given one, whose batch norms are those of several GPUs."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(trainer.model))
    return Trainer(trainer.config, model, trainer.schedule, trainer.rank)


def forward_over_ranks(norm, inputs):
    """Do what SyncBatchNorm.forward does: normalize by mean and variance over all ranks, with gradients to all."""
    if not norm.training:
        return F.batch_norm(inputs, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    ranks, dimensions = distributed.get_world_size(), [0, *range(2, inputs.ndim)]
    mean = all_reduce(inputs.mean(dimensions, keepdim=True)) / ranks
    variance = all_reduce((inputs - mean).square().mean(dimensions, keepdim=True)) / ranks
    count = ranks * inputs.numel() / inputs.shape[1]
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.flatten(), norm.momentum)
            norm.running_var.lerp_(variance.flatten() * count / (count - 1), norm.momentum)
    normalized = (inputs - mean) / (variance + norm.eps).sqrt()
    if norm.weight is None:
        return normalized
    shape = mean.shape
    return normalized * norm.weight.view(shape) + norm.bias.view(shape)


def train_two_steps(discs, recipe, rank=0, world_size=1):
    """Return the metrics of each step, and the model's buffers as lists."""
    trainer, stream = make_trainer(discs, rank, world_size, recipe=recipe)
    if world_size > 1:
        NORMS.forward = forward_over_ranks  # in this rank's process only
    metrics = [trainer.train_step(batch) for batch in stream.batches(0, 2)]
    return metrics, {name: buffer.tolist() for name, buffer in trainer.model.named_buffers()}


@pytest.mark.parametrize("recipe", ["contrastive-attn-teacher", "supervised-attn-teacher", "contrastive-self-mask"])
def test_two_ranks_with_norms_over_both_train_like_one(discs, recipe):
    expected_metrics, expected_buffers = train_two_steps(discs, recipe)
    for metrics, buffers in run_ranks(2, train_two_steps, discs, recipe):
        for actual, expected in zip(metrics, expected_metrics, strict=True):
            assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert buffers.keys() == expected_buffers.keys()
        for name, values in buffers.items():
            torch.testing.assert_close(values, expected_buffers[name], rtol=1e-2, atol=1e-4)


def test_synchronized_norms_have_the_settings_and_the_state_of_the_norms_that_they_replace(discs):
    trainer, stream = make_trainer(discs)
    trainer.train_step(next(stream.batches(0, 1)))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(trainer.model))
    expected, converted = (
        [norm for norm in found.modules() if isinstance(norm, NORMS)] for found in (trainer.model, model)
    )
    assert {type(norm) for norm in converted} == {nn.SyncBatchNorm}
    for norm, other in zip(expected, converted, strict=True):
        for name in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
            assert getattr(norm, name) == getattr(other, name)
    state = model.state_dict()
    assert list(state) == list(trainer.model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in trainer.model.state_dict().items())
    trained = [
        [name for name, weights in found.named_parameters() if weights.requires_grad]
        for found in (trainer.model, model)
    ]
    assert trained[0] == trained[1]  # the bias of the last norm of the projection head stays fixed


@pytest.mark.parametrize("to_gpus", [True, False])
def test_checkpoints_are_exchanged_between_one_and_several_gpus(discs, tmp_path, to_gpus):
    """The restored optimizer makes the same step as the saved one, given the same gradients."""
    trainer, stream = make_trainer(discs)
    other, _ = make_trainer(discs, seed=1)
    trainer.train_step(next(stream.batches(0, 1)))
    source, target = (trainer, synchronized(other)) if to_gpus else (synchronized(trainer), other)
    if not to_gpus:
        source.optimizer.load_state_dict(trainer.optimizer.state_dict())
    save_checkpoint(tmp_path / "checkpoint", source.state())
    target.restore(load_checkpoint(tmp_path / "checkpoint"))
    for run in (source, target):
        generator = torch.Generator().manual_seed(0)
        for weights in run.model.parameters():
            weights.grad = torch.randn(weights.shape, generator=generator) if weights.requires_grad else None
        run.optimizer.step()
    expected = source.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.model.state_dict().items())
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(source.model.eval().logits(images), target.model.eval().logits(images))


def test_statistics_of_synchronized_norms_are_frozen_in_the_first_pass_of_a_step_in_pieces(discs):
    model = synchronized(make_trainer(discs)[0]).model
    norms = [norm for norm in model.modules() if isinstance(norm, nn.SyncBatchNorm)]
    with frozen_statistics(model):
        assert not any(norm.track_running_stats for norm in norms)
    assert all(norm.track_running_stats for norm in norms)


def test_probe_with_a_synchronized_norm_folds_into_the_layer_that_gives_its_logits():
    probe = LinearProbe(8, 3)
    probe(torch.randn(50, 8) * 3 + 2)  # updates the running statistics
    probe = nn.SyncBatchNorm.convert_sync_batchnorm(probe).eval()
    features, folded = torch.randn(5, 8), probe.fold()
    torch.testing.assert_close(F.linear(features, folded["weight"], folded["bias"]), probe(features))
