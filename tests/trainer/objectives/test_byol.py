import pytest
import torch

from common.training import load_checkpoint, save_checkpoint
from tests.support.data.datasets import make_dataset
from tests.support.ranks import run_ranks
from tests.support.training import make_trainer
from trainer.config import TrainConfig
from trainer.model.target_network import target_momentum
from trainer.objectives.byol import BYOLObjective
from trainer.recipes import build, get_recipe

BYOL = {"recipe": "byol", "learning_rate": 1.0, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [24])


def target_of(trainer):
    objective = trainer.model.objective(BYOLObjective)
    return objective.target, [*trainer.model.backbone.parameters(), *objective.projector.parameters()]


def test_target_follows_after_each_step_of_the_optimizer(discs):
    trainer, stream = make_trainer(discs, **BYOL)
    target, originals = target_of(trainer)
    expected = [weights.clone() for weights in target.parameters()]
    for step, batch in enumerate(stream.batches(0, 3)):
        trainer.train_step(batch)
        momentum = target_momentum(step / trainer.schedule.steps)
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, originals, strict=True)]
        for weights, value in zip(target.parameters(), expected, strict=True):
            torch.testing.assert_close(weights, value)


def test_optimizer_does_not_have_the_weights_of_the_target(discs):
    trainer, _ = make_trainer(discs, **BYOL)
    optimized = {id(weights) for group in trainer.optimizer.param_groups for weights in group["params"]}
    target, originals = target_of(trainer)
    assert not optimized & {id(weights) for weights in target.parameters()}
    assert optimized >= {id(weights) for weights in originals}


def test_restored_trainer_continues_with_the_same_bits(discs, tmp_path):
    trainer, stream = make_trainer(discs, **BYOL)
    batches = list(stream.batches(0, 4))
    for batch in batches[:2]:
        trainer.train_step(batch)
    save_checkpoint(tmp_path / "checkpoint", trainer.state())
    resumed, _ = make_trainer(discs, **BYOL)
    resumed.restore(load_checkpoint(tmp_path / "checkpoint"))
    for batch in batches[2:]:
        assert resumed.train_step(batch) == trainer.train_step(batch)
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_target_starts_as_a_copy_of_initial_weights_that_were_loaded(discs):
    config = TrainConfig(recipe="byol", backbone="resnet18")
    model = build("byol", config, 4)
    with torch.no_grad():
        model.backbone.resnet.conv1.weight.fill_(0.5)  # as --init does
    get_recipe("byol").prepare(model, None, config)
    target = model.objective(BYOLObjective).target
    assert torch.equal(target.backbone.resnet.conv1.weight, model.backbone.resnet.conv1.weight)


def test_loss_is_the_sum_over_both_directions_of_2_minus_twice_the_cosine():
    objective = build("byol", TrainConfig(backbone="resnet18"), None).objective(BYOLObjective)
    vectors = torch.eye(4)
    outputs = {"first": vectors, "second": vectors, "target_first": vectors, "target_second": -vectors}
    terms = objective.loss_terms(outputs, None)
    assert terms.loss.item() == pytest.approx(4.0)  # 4 for the opposite direction, 0 for the same
    assert terms.figures["byol"] is terms.loss


def train_two_steps(discs, rank=0, world_size=1):
    trainer, stream = make_trainer(discs, rank, world_size, norm="group", **BYOL)
    for batch in stream.batches(0, 2):
        trainer.train_step(batch)
    return [weights.flatten()[:50].tolist() for weights in target_of(trainer)[0].parameters()]


def test_target_is_the_same_on_all_ranks_and_that_of_a_single_process(discs):
    first, second = run_ranks(2, train_two_steps, discs)
    assert first == second
    for found, expected in zip(first, train_two_steps(discs), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
