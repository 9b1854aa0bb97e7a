"""Tests of training runs whose ranks are killed or slow, and that resume with another number of ranks."""

import itertools
import json
import os
import signal
import time

import pytest

from common.launch import Rank
from common.training import load_checkpoint
from tests.support.data.datasets import make_dataset
from tests.support.ranks import exit_codes_of_ranks, run_ranks
from tests.support.training import CPU, make_settings
from trainer.data import feed
from trainer.data.dataset import open_dataset
from trainer.loop import train
from trainer.step import Trainer

STEPS = 6  # in two epochs
DELAYS = (1.0, 0.0, 0.5)  # seconds by which a slow rank decodes its batches later, in turn
LEARNING_RATE = 0.05  # so low that differences in rounding do not grow


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [10, 14, 12])


def train_rank(data, output, rank=0, world_size=1, kill_before=(None, ()), slow=None):
    """Train a run to its end, and return the keys of this rank's samples by step.

    Args:
        data: folder of the data set.
        output: folder of the run, which is resumed if there is one.
        rank: index of the rank.
        world_size: number of ranks.
        kill_before: a step, and the ranks that SIGKILL ends before it.
        slow: a rank whose decoding is slow.
    """
    keys, delays = {}, itertools.cycle(DELAYS)
    train_step, decode_piece = Trainer.train_step, feed.decode_piece

    def record_and_train(trainer, batch):
        step, ranks = kill_before
        if trainer.step == step and rank in ranks:
            os.kill(os.getpid(), signal.SIGKILL)
        keys[trainer.step] = batch.keys
        return train_step(trainer, batch)

    def decode_slowly(requests, spec):
        time.sleep(next(delays))
        return decode_piece(requests, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", record_and_train)
        if rank == slow:
            patch.setattr(feed, "decode_piece", decode_slowly)
        settings = make_settings(data, output, norm="group", checkpoint_every=2, learning_rate=LEARNING_RATE)
        train(settings, open_dataset(str(data)), str(output), Rank(rank, world_size, CPU))
    return keys


def train_on_ranks(data, output, world_size, **options):
    """Train on ranks of a process group; return the keys of each step's batch, in the order of the ranks."""
    ranks = run_ranks(world_size, lambda rank, world_size: train_rank(data, output, rank, world_size, **options))
    assert len({tuple(keys) for keys in ranks}) == 1
    return {step: [key for keys in ranks for key in keys[step]] for step in ranks[0]}


def losses(output):
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def uninterrupted(discs, tmp_path_factory):
    """Folder of a run of one process that was never interrupted, and the keys of each step's batch."""
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return output, train_rank(discs, output)


@pytest.mark.parametrize(("victims", "world_size"), [([0], 2), ([1], 4), ([0, 1], 1)])
def test_run_whose_ranks_were_killed_in_an_epoch_resumes_with_the_same_batches(
    discs, uninterrupted, tmp_path, victims, world_size
):
    """Ranks that lose another one end, rather than wait. The same or another number of ranks resumes."""
    expected, keys = uninterrupted
    output, step = tmp_path / "run", 5
    codes = exit_codes_of_ranks(
        2, lambda rank, ranks: train_rank(discs, output, rank, ranks, kill_before=(step, victims))
    )
    assert [code == -signal.SIGKILL for code in codes] == [rank in victims for rank in range(2)]
    assert all(code not in (0, None) for code in codes)
    assert load_checkpoint(output / "checkpoints/last")["step"] == 4  # in the middle of the second epoch
    resumed = train_on_ranks(discs, output, world_size)
    assert resumed == {step: keys[step] for step in (4, 5)}
    assert losses(output) == pytest.approx(losses(expected), rel=1e-5)
    actual, wanted = (load_checkpoint(run / "checkpoints/last") for run in (output, expected))
    assert actual["step"] == wanted["step"] == STEPS


def test_slow_rank_delays_the_others_and_changes_nothing(discs, uninterrupted, tmp_path):
    expected, keys = uninterrupted
    assert train_on_ranks(discs, tmp_path / "run", 2, slow=1) == keys
    assert losses(tmp_path / "run") == pytest.approx(losses(expected), rel=1e-5)
