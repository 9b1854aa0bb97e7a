import itertools
import json
import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.launch import Rank
from common.parallel import Decoders
from tests.support.datasets import make_dataset
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.data.sampler import Sampler
from trainer.data.stream import Stream
from trainer.loop import make_schedule
from trainer.optim import Schedule
from trainer.recipes import build, get_recipe, recipe_names
from trainer.step import Trainer, prepare_inputs, split_pieces

CPU = torch.device("cpu")
CURVES = Path(__file__).parent  # a recorded curve is made anew by deleting it and running its test twice


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])


def training(discs, rank=0, world=1, **changes):
    """A training on one rank, and the stream of its batches."""
    usual = {"backbone": "resnet18", "image_size": 32, "batch_size": 12, "epochs": 3, "warmup_epochs": 1}
    config = TrainConfig(data=str(discs), **usual | changes)
    data = open_dataset(config.data)
    sampler = Sampler(data.sizes, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = build(config.recipe, config, data.classes)
    place = Rank(rank, world, CPU)
    stream = Stream(data, sampler, config.image_size, rank, world, Decoders(2, False), get_recipe(config.recipe).views)
    return Trainer(config, model, make_schedule(config, sampler.steps_per_epoch), place), stream


def learnt(discs, steps, rank=0, world=1, **changes):
    """The figures of some steps."""
    trained, stream = training(discs, rank, world, **changes)
    return [trained.train_step(batch) for batch in stream.batches(0, steps)]


def test_the_rate_rises_and_falls():
    plan = Schedule(2.0, 100, 10)
    rates = [plan.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.002
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_peak_is_that_of_simclr_unless_given():
    assert make_schedule(TrainConfig(batch_size=256, epochs=20), 5) == Schedule(1.2, 100, 50)
    assert make_schedule(TrainConfig(batch_size=256, epochs=20, learning_rate=0.3, warmup_epochs=0), 5) == Schedule(
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


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "contrastive-contracam"])
def test_pieces_give_the_step_of_the_whole_batch_of_each_recipe(discs, recipe):
    whole, pieces = (learnt(discs, 2, norm="group", recipe=recipe, micro_batch=size) for size in (None, 6))
    assert pieces[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-5)


def test_clean_images_may_be_others_and_fewer_than_views(discs):
    _, stream = training(discs, norm="group", recipe="contrastive-attn-cotrain")
    inputs = prepare_inputs(next(stream.batches(0, 1)), CPU)
    inputs = inputs._replace(clean=inputs.clean[:5], attention=inputs.attention[:5], gaze=inputs.gaze[:5])
    whole, pieces = split_pieces(inputs, None), split_pieces(inputs, 4)
    assert [len(clean) for _, clean in whole] == [5]
    assert [(len(views[0]), len(views[1]), len(clean)) for views, clean in pieces] == [(4, 4, 2), (4, 4, 2), (4, 4, 1)]
    with pytest.raises(UserError, match=r"--micro-batch 2: a worker's 12 images .* choose 3 or more"):
        split_pieces(inputs, 2)


def test_pieces_count_each_image_once_in_batch_norms_statistics(discs):
    trained, stream = training(discs, micro_batch=6)
    norms = [module for module in trained.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    trained.train_step(next(stream.batches(0, 1)))
    assert all(norm.momentum == 0.1 for norm in norms)


def one_rank(discs, rank, world, port, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    figures = [learnt(discs, 2, rank, world, norm="group", recipe=name) for name in recipe_names()]
    if rank == 0:
        queue.put(figures)
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_curve_of_one_with_group_norm(discs):
    """Each recipe's: none hangs on a weight without a gradient."""
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
    for name, curve in zip(recipe_names(), found, strict=True):
        for ours, theirs in zip(curve, learnt(discs, 2, norm="group", recipe=name), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("recipe", recipe_names())
def test_each_recipe_moves_all_its_weights(discs, recipe):
    trained, stream = training(discs, recipe=recipe, learning_rate=1.0)
    before = {name: one.detach().clone() for name, one in trained.model.named_parameters() if one.requires_grad}
    for batch in itertools.islice(stream.batches(0, 3), 3):
        trained.train_step(batch)
    still = [
        name for name, one in trained.model.named_parameters() if name in before and torch.equal(one, before[name])
    ]
    assert not still


def told_by_parts(discs, recipe):
    """For each part of a recipe: the names of its figures, and the weights that its loss gives a gradient."""
    trained, stream = training(discs, recipe=recipe, image_size=40)
    inputs = prepare_inputs(next(stream.batches(0, 1)), CPU)
    outputs = trained.model(inputs.views, inputs.clean)
    weights = {name: one for name, one in trained.model.named_parameters() if one.requires_grad}
    told = {}
    for part in trained.model.objectives:
        terms = part.loss_terms(outputs, inputs)
        slopes = [None] * len(weights)
        if terms.loss.requires_grad:
            slopes = torch.autograd.grad(terms.loss, list(weights.values()), retain_graph=True, allow_unused=True)
        names = {name for name, slope in zip(weights, slopes, strict=True) if slope is not None and slope.any()}
        told[frozenset(terms.figures)] = frozenset(names)
    return told


@pytest.fixture(scope="module")
def told(discs):
    return {recipe: told_by_parts(discs, recipe) for recipe in recipe_names()}


def test_no_two_recipes_are_the_same_under_two_names(told):
    """Each pair differs in its figures, or in the weights that a part of them moves."""
    assert len({frozenset(parts.items()) for parts in told.values()}) == len(told) == 8


def test_only_the_guided_recipes_backbones_hear_of_attention(told):
    guided = set()
    for name, parts in told.items():
        for figures, weights in parts.items():
            if any("kld" in figure for figure in figures):
                assert weights or name == "contrastive-contracam"
                guided |= {name} if any(one.startswith("backbone.") for one in weights) else set()
    assert guided == set(told) - {"contrastive", "supervised", "contrastive-self-mask"}


def test_figures_tell_whose_attention_and_which_objective(told):
    figures = {recipe: {figure for part in parts for figure in part} for recipe, parts in told.items()}
    probe, attention = {"probe_loss", "probe_accuracy"}, {"kld", "nss", "attention_cc"}
    assert figures["contrastive"] == {"contrastive"} | attention | probe
    assert figures["contrastive-attn-cotrain"] == {"contrastive"} | {f"human_{name}" for name in attention} | probe
    assert figures["contrastive-self-mask"] == {"contrastive", "mask_mean"} | probe
    assert figures["contrastive-attn-block"] == {"contrastive", "mask_mean"} | attention | probe
    assert figures["supervised"] == {"cross_entropy", "probe_accuracy"} | attention
