import os
import re

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.parallel import Decoders
from tests.support.datasets import disc_sample, make_dataset, overwrite_member
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.sampler import Sampler
from trainer.data.stream import Stream

SIZES = [7, 5, 9, 6]
THREADS, PROCESSES = Decoders(2, False), Decoders(2, True)
VIEWS = (draw_augmentation, draw_augmentation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), SIZES)


def stream(folder, batch=6, rank=0, world=1, seed=0, decoders=THREADS, **options):
    data = open_dataset(str(folder))
    return Stream(data, Sampler(data.sizes, batch, seed), 32, rank, world, decoders, VIEWS, **options)


def batches(folder, first=0, end=8, **options):
    return list(stream(folder, **options).batches(first, end))


def same(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else np.array_equal(np.concatenate(x), np.concatenate(y))
        for x, y in zip(a[:6], b[:6], strict=True)
    ) and (a.keys == b.keys)


def test_a_batch_holds_views_frame_map_points_and_labels(folder):
    batch = batches(folder, 0, 1)[0]
    assert batch.views.shape == (6, 2, 3, 32, 32)
    assert batch.clean.shape == (6, 3, 32, 32)
    assert batch.views.dtype == batch.clean.dtype == batch.attention.dtype == torch.uint8
    assert batch.attention.shape == (6, 32, 32)
    assert batch.augmentation.shape == (6, 2, 11)
    assert (len(batch.keys), batch.skipped) == (6, 0)
    for row, key in enumerate(batch.keys):
        sample = disc_sample(int(key), 4)
        assert batch.labels[row] == sample.class_index
        np.testing.assert_array_equal(batch.gaze[row], sample.gaze)
        np.testing.assert_array_equal(batch.attention[row].numpy(), sample.attention)


def test_threads_and_processes_make_the_same_batches(folder):
    assert all(map(same, batches(folder), batches(folder, decoders=PROCESSES)))


def test_processes_name_a_damaged_sample_and_others_stand_in_if_told_to(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", "jpg")
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: .*--skip-damaged"):
        batches(tmp_path, 0, 8, decoders=PROCESSES)
    alike = (batches(tmp_path, 0, 4, skip_damaged=True, decoders=decoders) for decoders in (THREADS, PROCESSES))
    assert all(map(same, *alike))


def die(generator):
    os._exit(1)


def test_a_process_that_dies_ends_the_stream_with_a_sentence(folder):
    data = open_dataset(str(folder))
    deadly = Stream(data, Sampler(data.sizes, 6, 0), 32, 0, 1, PROCESSES, (die, die))
    with pytest.raises(UserError, match=r"a process that decodes samples died .*shm-size"):
        list(deadly.batches(0, 8))


def test_every_epoch_shows_almost_every_sample_once(folder):
    for epoch in range(2):
        keys = [key for batch in batches(folder, 4 * epoch, 4 * epoch + 4) for key in batch.keys]
        assert len(keys) == len(set(keys)) == 24


def test_the_views_of_a_sample_differ_and_change_from_epoch_to_epoch(folder):
    found = {}
    for batch in batches(folder, 0, 8):
        for row, key in enumerate(batch.keys):
            found.setdefault(key, []).append(batch.views[row])
    twice = [views for views in found.values() if len(views) == 2]
    assert twice
    assert not any(torch.equal(first, second) for first, second in twice)
    assert not any(torch.equal(views[0][0], views[0][1]) for views in twice)


def test_the_same_seed_gives_the_same_bytes_another_seed_others(folder):
    assert all(map(same, batches(folder), batches(folder)))
    assert not same(batches(folder)[0], batches(folder, seed=1)[0])


@pytest.mark.parametrize("first", [1, 3, 4, 6])
def test_from_any_step_on_the_batches_are_those_of_a_stream_that_never_stopped(folder, first):
    assert all(map(same, batches(folder)[first:], batches(folder, first)))


def test_ranks_share_the_batch_of_one_process(folder):
    whole = batches(folder)
    parts = [batches(folder, rank=rank, world=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert batch.keys == [key for rank in range(3) for key in parts[rank][step].keys]
        assert torch.equal(batch.views, torch.cat([parts[rank][step].views for rank in range(3)]))


def test_classes_may_be_absent(tmp_path):
    assert (batches(make_dataset(tmp_path, [6], classes=None), 0, 1)[0].labels == -1).all()


@pytest.mark.parametrize("member", ["jpg", "attn.png", "gaze.npy"])
def test_a_damaged_sample_is_named(tmp_path, member):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", member)
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: .*--skip-damaged"):
        batches(tmp_path, 0, 8)


def test_a_damaged_sample_is_skipped_and_counted_if_told_to(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", "jpg")
    found = batches(tmp_path, 0, 8, skip_damaged=True)
    assert "000000008" not in {key for batch in found for key in batch.keys}
    assert sum(batch.skipped for batch in found) in (1, 2)  # once an epoch, where it is drawn
    assert all(len(batch.keys) == 6 for batch in found)


def test_a_shard_that_ends_early_is_named(tmp_path):
    path = make_dataset(tmp_path, SIZES) / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"train-000002\.tar: damaged after sample 0000000\d\d: expected 9 samples"):
        batches(tmp_path, 0, 8)


def test_a_shard_that_ends_early_is_used_as_far_as_it_goes_if_told_to(tmp_path, capsys):
    path = make_dataset(tmp_path, SIZES) / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = batches(tmp_path, 0, 4, skip_damaged=True)
    assert sum(batch.skipped for batch in found) > 0
    assert re.search(r"train-000002\.tar: [45] of 9 samples can be read", capsys.readouterr().err)


def test_a_missing_shard_is_named(tmp_path):
    (make_dataset(tmp_path, SIZES) / "train-000003.tar").unlink()
    with pytest.raises(UserError, match=r"train-000003\.tar: damaged at its first sample.*No such file"):
        batches(tmp_path, 0, 8)


def test_for_a_missing_shard_others_stand_in_if_told_to(tmp_path):
    (make_dataset(tmp_path, SIZES) / "train-000003.tar").unlink()
    found = batches(tmp_path, 0, 4, skip_damaged=True)
    assert all(len(batch.keys) == 6 for batch in found)
    assert sum(batch.skipped for batch in found) in range(3, SIZES[3] + 1)
    again = batches(tmp_path, 2, 4, skip_damaged=True)
    assert [batch.keys for batch in again] == [batch.keys for batch in found[2:]]


def test_without_any_shard_nothing_can_stand_in(tmp_path):
    for path in make_dataset(tmp_path, SIZES).glob("*.tar"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its shards can be read"):
        batches(tmp_path, 0, 1, skip_damaged=True)


def test_a_class_beyond_those_of_the_manifest_is_named(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES, classes=2), "train-000001.tar", "000000008", "cls", b"7")
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: class 7+ of 2"):
        batches(tmp_path, 0, 8)


def test_a_shard_that_ends_after_its_first_sample_is_used_too(tmp_path):
    path = make_dataset(tmp_path, [9]) / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"000000001.")])
    found = batches(tmp_path, 0, 1, skip_damaged=True)
    assert {key for batch in found for key in batch.keys} == {"000000000"}
    assert found[0].skipped >= 5
