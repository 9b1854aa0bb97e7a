"""Only augmented views enter the running statistics of batch norm, whichever way the network is run."""

import copy

import pytest
import torch
from torch import nn

from tests.support.data.datasets import make_dataset
from tests.support.training import make_trainer
from trainer.model.backbone import Backbone
from trainer.model.batch_norm import frozen_statistics
from trainer.objectives import ContrastiveObjective, Model, ProbeObjective
from trainer.recipes import recipe_names
from trainer.step import Trainer, prepare_inputs

NORMS = nn.modules.batchnorm._BatchNorm


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])


def run_directly(trainer, inputs):
    trainer.model(inputs.views, inputs.clean)


def run_compiled(trainer, inputs):
    torch.compile(trainer.model, backend="eager")(inputs.views, inputs.clean)


def run_synchronized(trainer, inputs):
    """Run the norms that replace the others on several GPUs; those of a single process run on CPUs too."""
    trainer.model = nn.SyncBatchNorm.convert_sync_batchnorm(trainer.model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in trainer.model.modules())
    trainer.model(inputs.views, inputs.clean)


def run_step(trainer, inputs):
    trainer._backward(inputs)


def statistics_of(model):
    """Return all buffers of batch norms by name, also the number of batches."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, NORMS)]
    return {f"{name}.{key}": buffer.clone() for name, norm in norms for key, buffer in norm.named_buffers()}


def statistics_with(discs, recipe, run, clean, **changes):
    """Return the running statistics after one pass; `clean` makes the clean images from those of the data set."""
    trainer, stream = make_trainer(discs, recipe=recipe, **changes)
    inputs = prepare_inputs(next(stream.batches(0, 1)), torch.device("cpu"))
    run(trainer, inputs._replace(clean=clean(inputs.clean)))
    return statistics_of(trainer.model)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("run", [run_directly, run_synchronized, run_step])
@pytest.mark.parametrize("recipe", recipe_names())
def test_clean_images_do_not_enter_the_statistics_of_any_recipe(discs, recipe, run):
    first, second = (statistics_with(discs, recipe, run, clean) for clean in (torch.clone, lambda images: 1 - images))
    assert_equal(first, second)
    assert {int(count) for name, count in first.items() if name.endswith("num_batches_tracked")} == {1}


@pytest.mark.parametrize("recipe", ["contrastive", "contrastive-attn-teacher", "contrastive-contracam"])
def test_compiled_network_has_the_same_statistics(discs, recipe):
    compiled, expected = (
        statistics_with(discs, recipe, run, lambda images: 1 - images) for run in (run_compiled, run_directly)
    )
    assert compiled.keys() == expected.keys()
    for name, buffer in compiled.items():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("recipe", ["contrastive", "contrastive-attn-cotrain"])
def test_clean_images_do_not_enter_the_statistics_of_a_step_in_pieces(discs, recipe):
    first, second = (
        statistics_with(discs, recipe, run_step, clean, micro_batch=6)
        for clean in (torch.clone, lambda images: 1 - images)
    )
    assert_equal(first, second)
    assert {int(count) for name, count in first.items() if name.endswith("num_batches_tracked")} == {2}


def test_all_images_enter_the_statistics_on_request(discs):
    first, second = (
        statistics_with(discs, "contrastive", run_directly, clean, bn_statistics="all")
        for clean in (torch.clone, lambda images: 1 - images)
    )
    name = "backbone.resnet.bn1"
    assert not torch.equal(first[f"{name}.running_mean"], second[f"{name}.running_mean"])
    assert first[f"{name}.num_batches_tracked"] == 2


@pytest.mark.parametrize("micro_batch", [None, 6])
def test_baseline_has_the_statistics_of_a_model_without_an_attention_read_out(discs, micro_batch):
    trainer, stream = make_trainer(discs, recipe="contrastive", micro_batch=micro_batch)
    contrast, _, probe = trainer.model.objectives
    backbone, classes = Backbone("resnet18"), probe.probe.linear.out_features
    plain = Model(backbone, [ContrastiveObjective(512, trainer.config), ProbeObjective(512, classes, trainer.config)])
    own = (backbone, *plain.objectives)
    for module, same in zip(own, (trainer.model.backbone, contrast, probe), strict=True):
        module.load_state_dict(copy.deepcopy(same.state_dict()))
    without = Trainer(trainer.config, plain, trainer.schedule, trainer.rank)
    for batch in stream.batches(0, 3):
        trainer.train_step(batch)
        without.train_step(batch)
    assert_equal(statistics_of(trainer.model.backbone), statistics_of(without.model.backbone))
    assert_equal(statistics_of(contrast), statistics_of(next(without.model.objectives)))


def normalize_frozen(norm, inputs):
    """Return the normalized inputs; raise ValueError after that if they have three rows."""
    with frozen_statistics(norm):
        normalized = norm(inputs)
        if len(inputs) == 3:
            raise ValueError("three rows")
    return normalized


def test_frozen_statistics_are_updated_again_afterwards_also_after_an_error():
    norm = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    assert normalize_frozen(norm, torch.randn(8, 3) + 5).mean().abs() < 1e-5
    with pytest.raises(ValueError, match="three rows"):
        normalize_frozen(norm, torch.randn(3, 3))
    assert norm[1].running_mean.tolist() == [0, 0, 0]
    assert norm[1].num_batches_tracked == 0
    norm(torch.randn(8, 3))
    assert norm[1].num_batches_tracked == 1
    assert not norm[0].track_running_stats
