import itertools
import json
import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from common.launch import Place
from tests.trainer.datasets import make_dataset
from trainer.config import TrainConfig
from trainer.dataset import open_dataset
from trainer.loop import Schedule, Training, schedule
from trainer.model.parts import AttentionPart
from trainer.recipes import build, recipe_names
from trainer.sampler import Sampler
from trainer.stream import Stream

CPU = torch.device("cpu")
CURVES = Path(__file__).parent  # a recorded curve is made anew by deleting it and running its test twice


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])


def training(discs, rank=0, world=1, **changes):
    """A training on one rank, and the stream of its batches."""
    config = TrainConfig(
        data=str(discs), backbone="resnet18", image_size=32, batch_size=12, epochs=3, warmup_epochs=1, **changes
    )
    data = open_dataset(config.data)
    sampler = Sampler(data.sizes, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = build(config.recipe, config, data.classes)
    place = Place(rank, world, CPU)
    stream = Stream(data, sampler, config.image_size, rank, world, threads=2)
    return Training(config, model, schedule(config, sampler.steps_per_epoch), place), stream


def learnt(discs, steps, rank=0, world=1, **changes):
    """The figures of some steps."""
    trained, stream = training(discs, rank, world, **changes)
    return [trained.learn(batch) for batch in stream.batches(0, steps)]


def test_the_rate_rises_and_falls():
    plan = Schedule(2.0, 100, 10)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.002
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_peak_is_that_of_simclr_unless_given():
    assert schedule(TrainConfig(batch_size=256, epochs=20), 5) == Schedule(1.2, 100, 50)
    assert schedule(TrainConfig(batch_size=256, epochs=20, learning_rate=0.3, warmup_epochs=0), 5) == Schedule(
        0.3, 100, 0
    )


@pytest.mark.parametrize(("norm", "steps", "tolerance"), [("batch", 5, 1e-4), ("group", 20, 1e-2)])
def test_a_recorded_curve_comes_out_again(discs, norm, steps, tolerance):
    """Other processors round otherwise, and batch norm over twelve small images makes that ten times as much a step."""
    found = [step["loss"] for step in learnt(discs, steps, norm=norm)]
    curve = CURVES / f"recorded_curve_{norm}.json"
    if not curve.exists():
        curve.write_text(json.dumps(found) + "\n")
        pytest.fail(f"{curve.name} was not there; it is written now")
    np.testing.assert_allclose(found, json.loads(curve.read_text()), rtol=tolerance)


def test_two_runs_are_equal_to_the_last_bit(discs):
    assert learnt(discs, 4) == learnt(discs, 4)


@pytest.mark.parametrize("size", [1, 5, 6])
def test_pieces_give_the_curve_of_the_whole_batch_with_group_norm(discs, size):
    whole = learnt(discs, 4, norm="group")
    pieces = learnt(discs, 4, norm="group", micro_batch=size)
    for ours, theirs in zip(pieces, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_pieces_count_each_image_once_in_batch_norms_statistics(discs):
    trained, stream = training(discs, micro_batch=6)
    norms = [module for module in trained.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    trained.learn(next(stream.batches(0, 1)))
    assert all(norm.momentum == 0.1 for norm in norms)


def one_rank(discs, rank, world, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    figures = learnt(discs, 4, rank, world, norm="group")
    if rank == 0:
        queue.put(figures)
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_curve_of_one_with_group_norm(discs):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=one_rank, args=(discs, rank, 2, port, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = queue.get(timeout=120)
    for process in ranks:
        process.join()
    for ours, theirs in zip(found, learnt(discs, 4, norm="group"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("recipe", recipe_names())
def test_each_recipe_moves_all_its_weights(discs, recipe):
    trained, stream = training(discs, recipe=recipe)
    before = {name: one.detach().clone() for name, one in trained.model.named_parameters() if one.requires_grad}
    for batch in itertools.islice(stream.batches(0, 3), 3):
        trained.learn(batch)
    still = [
        name for name, one in trained.model.named_parameters() if name in before and torch.equal(one, before[name])
    ]
    assert not still


def gradient_of_attention(discs, recipe):
    """What the attention loss tells the backbone: the largest gradient of its weights."""
    trained, stream = training(discs, recipe=recipe)
    part = trained.model.part(AttentionPart)
    from trainer.loop import on_device

    inputs = on_device(next(stream.batches(0, 1)), CPU)
    outputs = trained.model(inputs.first, inputs.second, inputs.clean)
    part.terms(outputs, inputs).loss.backward()
    assert all(one.grad is not None for one in part.parameters())
    return max(
        (one.grad.abs().max().item() for one in trained.model.backbone.parameters() if one.grad is not None), default=0
    )


def test_only_the_guided_recipes_backbone_hears_of_attention(discs):
    assert gradient_of_attention(discs, "contrastive") == 0
    assert gradient_of_attention(discs, "contrastive-attn-teacher") > 0
