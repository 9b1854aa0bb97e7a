import os
import re
import tarfile

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.parallel import Decoders
from common.storage.s3_client import get_client
from tests.support import training
from tests.support.data.datasets import disc_sample, make_dataset, overwrite_member
from tests.support.faults import FaultProxy
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.decoding import ViewSpec, concat_batches, decode_piece, sample_key
from trainer.data.sampler import Sampler
from trainer.data.shard_cache import ShardCache

SIZES = [7, 5, 9, 6]  # of the shards
BATCH_SIZE = 6  # 4 steps per epoch
THREADS, PROCESSES = Decoders(2, False), Decoders(2, True)
VIEWS = (draw_augmentation, draw_augmentation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), SIZES)


def make_stream(folder, rank=0, world_size=1, seed=0, decoders=THREADS, batch_size=BATCH_SIZE, **options):
    data = open_dataset(str(folder))
    sampler, spec = Sampler(data.sizes, batch_size, seed), ViewSpec(32, VIEWS, data.classes)
    return training.make_stream(data, sampler, spec, rank, world_size, decoders, **options)


def read_batches(folder, first=0, end=8, **options):
    return list(make_stream(folder, **options).batches(first, end))


def equal(first, second):
    """Return True if two batches are equal, except for the number of skipped samples."""
    tensors = ("views", "clean", "augmentation", "attention", "labels")
    return (
        all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors)
        and all(np.array_equal(x, y) for x, y in zip(first.gaze, second.gaze, strict=True))
        and first.keys == second.keys
    )


def all_equal(first, second):
    """Return True if two lists contain the same batches, at least one."""
    return len(first) == len(second) > 0 and all(map(equal, first, second))


def test_batch_contains_views_clean_images_maps_points_and_labels(folder):
    batch = read_batches(folder, 0, 1)[0]
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
    assert all_equal(read_batches(folder), read_batches(folder, decoders=PROCESSES))


def test_processes_report_or_replace_damaged_samples_like_threads(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", "jpg")
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: .*--skip-damaged"):
        read_batches(tmp_path, 0, 8, decoders=PROCESSES)
    pair = (read_batches(tmp_path, 0, 4, skip_damaged=True, decoders=decoders) for decoders in (THREADS, PROCESSES))
    assert all_equal(*pair)


def exit_process(generator, settings):
    """Stand in for a function that draws an augmentation, and end the process."""
    os._exit(1)


def test_death_of_a_decoder_process_raises_user_error(folder):
    data = open_dataset(str(folder))
    spec = ViewSpec(32, (exit_process, exit_process), None)
    stream = training.make_stream(data, Sampler(data.sizes, BATCH_SIZE, 0), spec, decoders=PROCESSES)
    with pytest.raises(UserError, match=r"a process that decodes samples died .*shm-size"):
        list(stream.batches(0, 8))


def test_samples_of_an_epoch_are_distinct(folder):
    for epoch in range(2):
        keys = [key for batch in read_batches(folder, 4 * epoch, 4 * epoch + 4) for key in batch.keys]
        assert len(keys) == len(set(keys)) == 24


def test_views_of_a_sample_differ_from_each_other_and_between_epochs(folder):
    views_by_key = {}
    for batch in read_batches(folder, 0, 8):
        for row, key in enumerate(batch.keys):
            views_by_key.setdefault(key, []).append(batch.views[row])
    in_both_epochs = [views for views in views_by_key.values() if len(views) == 2]
    assert in_both_epochs
    assert not any(torch.equal(first, second) for first, second in in_both_epochs)
    assert not any(torch.equal(views[0][0], views[0][1]) for views in in_both_epochs)


def test_batches_depend_on_the_seed_only(folder):
    assert all_equal(read_batches(folder), read_batches(folder))
    assert not equal(read_batches(folder)[0], read_batches(folder, seed=1)[0])


@pytest.mark.parametrize("first", [1, 3, 4, 6])
def test_stream_resumed_at_a_step_continues_an_uninterrupted_one(folder, first):
    assert all_equal(read_batches(folder)[first:], read_batches(folder, first))


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory):
    """A data set with a missing shard, and with unreadable samples in a row."""
    folder = make_dataset(tmp_path_factory.mktemp("damaged"), SIZES)
    (folder / "train-000003.tar").unlink()
    for key in ("000000008", "000000009", "000000010"):
        overwrite_member(folder, "train-000001.tar", key, "jpg")
    return folder


@pytest.mark.parametrize("kind", ["complete", "damaged"])
def test_ranks_divide_the_batches_of_one_process_and_resume_each_others_run(folder, damaged_folder, kind):
    """The number of ranks changes in the middle of an epoch; an epoch has three steps."""
    location, options = {"complete": (folder, {}), "damaged": (damaged_folder, {"skip_damaged": True})}[kind]
    whole = read_batches(location, 0, 9, batch_size=8, **options)
    assert (sum(batch.skipped for batch in whole) > 0) == (kind == "damaged")
    for world_size, first, end in ((2, 0, 1), (4, 1, 4), (8, 4, 7), (1, 7, 8), (2, 8, 9)):
        ranks = [
            read_batches(location, first, end, batch_size=8, rank=rank, world_size=world_size, **options)
            for rank in range(world_size)
        ]
        joined = [concat_batches(list(parts)) for parts in zip(*ranks, strict=True)]
        assert all_equal(joined, whole[first:end])
        assert [batch.skipped for batch in joined] == [batch.skipped for batch in whole[first:end]]


def test_labels_without_classes_are_minus_1(tmp_path):
    assert (read_batches(make_dataset(tmp_path, [6], classes=None), 0, 1)[0].labels == -1).all()


@pytest.mark.parametrize("member", ["jpg", "attn.png", "gaze.npy"])
def test_error_names_a_damaged_sample(tmp_path, member):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", member)
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: .*--skip-damaged"):
        read_batches(tmp_path, 0, 8)


def test_damaged_sample_is_replaced_and_counted_on_request(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES), "train-000001.tar", "000000008", "jpg")
    batches = read_batches(tmp_path, 0, 8, skip_damaged=True)
    assert "000000008" not in {key for batch in batches for key in batch.keys}
    assert sum(batch.skipped for batch in batches) in (1, 2)  # at most once per epoch: an epoch skips 3 of 27 samples
    assert all(len(batch.keys) == 6 for batch in batches)


def test_error_names_a_truncated_shard(tmp_path):
    path = make_dataset(tmp_path, SIZES) / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"train-000002\.tar: damaged after sample 0000000\d\d: expected 9 samples"):
        read_batches(tmp_path, 0, 8)


def test_truncated_shard_is_used_up_to_its_end_on_request(tmp_path, capsys):
    path = make_dataset(tmp_path, SIZES) / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    batches = read_batches(tmp_path, 0, 4, skip_damaged=True)
    assert sum(batch.skipped for batch in batches) > 0
    assert re.search(r"train-000002\.tar: [45] of 9 samples can be read", capsys.readouterr().err)


def test_error_names_a_missing_shard(tmp_path):
    (make_dataset(tmp_path, SIZES) / "train-000003.tar").unlink()
    with pytest.raises(UserError, match=r"train-000003\.tar: damaged at its first sample.*No such file"):
        read_batches(tmp_path, 0, 8)


def test_missing_shard_is_replaced_by_others_on_request(tmp_path):
    (make_dataset(tmp_path, SIZES) / "train-000003.tar").unlink()
    batches = read_batches(tmp_path, 0, 4, skip_damaged=True)
    assert all(len(batch.keys) == 6 for batch in batches)
    assert sum(batch.skipped for batch in batches) in range(3, SIZES[3] + 1)
    again = read_batches(tmp_path, 2, 4, skip_damaged=True)
    assert [batch.keys for batch in again] == [batch.keys for batch in batches[2:]]


@pytest.mark.parametrize("member", range(5))
@pytest.mark.parametrize("position", [0, 9, 100, 124, 148, 156, 257, 345])  # name, mode, size, checksum, type, ...
def test_shard_with_a_damaged_header_in_its_first_sample_is_replaced_like_a_missing_one(tmp_path, member, position):
    path = make_dataset(tmp_path, [3, 3]) / "train-000000.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        header = archive.getmembers()[member]
    content[header.offset + position] ^= 0x80
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-000000\.tar: damaged .*expected 3 samples, found [01]"):
        read_batches(tmp_path, 0, 1)
    batches = read_batches(tmp_path, 0, 3, skip_damaged=True)
    path.unlink()
    assert all_equal(batches, read_batches(tmp_path, 0, 3, skip_damaged=True))
    assert [batch.skipped for batch in batches] == [3, 3, 3]


def test_shard_without_readable_samples_is_replaced_by_the_next_one_on_request(tmp_path):
    folder = make_dataset(tmp_path, [3, 3, 3])
    for number in (3, 4, 5):
        overwrite_member(folder, "train-000001.tar", f"{number:09d}", "jpg")
    batches = read_batches(tmp_path, 0, 4, skip_damaged=True)
    keys = {key for batch in batches for key in batch.keys}
    assert keys <= {f"{number:09d}" for number in (0, 1, 2, 6, 7, 8)}
    assert 6 <= sum(batch.skipped for batch in batches) <= 12  # two or three times per epoch: an epoch skips 3 samples
    assert all(len(batch.keys) == 6 for batch in batches)


def test_unreadable_samples_are_not_tried_again_as_replacements(tmp_path, monkeypatch):
    decoded = []

    def count_and_decode(requests, spec):
        decoded.extend(sample_key(request.sample) for request in requests)
        return decode_piece(requests, spec)

    monkeypatch.setattr("trainer.data.feed.decode_piece", count_and_decode)
    monkeypatch.setattr("trainer.data.feed.HostFeed.samples_per_piece", 1)
    monkeypatch.setattr("trainer.data.stream.BATCHES_AHEAD", 1)  # else batches try the same one at the same time
    folder = make_dataset(tmp_path, [6, 6])
    for number in range(6):
        overwrite_member(folder, "train-000000.tar", f"{number:09d}", "jpg")
    batches = read_batches(tmp_path, 0, 8, skip_damaged=True)
    chosen_and_damaged = sum(batch.skipped for batch in batches)
    damaged = [key for key in decoded if key < f"{6:09d}"]
    assert len(damaged) <= chosen_and_damaged + 6  # once when chosen, and each once as a replacement


def test_unreadable_shards_only_raise_user_error(tmp_path):
    for path in make_dataset(tmp_path, SIZES).glob("*.tar"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its shards can be read"):
        read_batches(tmp_path, 0, 1, skip_damaged=True)


def test_error_names_a_sample_whose_class_is_not_in_the_manifest(tmp_path):
    overwrite_member(make_dataset(tmp_path, SIZES, classes=2), "train-000001.tar", "000000008", "cls", b"7")
    with pytest.raises(UserError, match=r"train-000001\.tar: sample 000000008 cannot be read: class 7+ of 2"):
        read_batches(tmp_path, 0, 8)


def test_shard_truncated_after_its_first_sample_is_used(tmp_path):
    path = make_dataset(tmp_path, [9]) / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"000000001.")])
    batches = read_batches(tmp_path, 0, 1, skip_damaged=True)
    assert {key for batch in batches for key in batch.keys} == {"000000000"}
    assert batches[0].skipped >= 5


@pytest.mark.usefixtures("s3_environment")
def test_second_run_reads_no_shard_from_s3_with_a_cache(folder, tmp_path, s3, bucket, monkeypatch):
    for path in folder.rglob("*.*"):
        s3.client().upload_file(str(path), bucket, f"data/{path.relative_to(folder)}")
    location = f"s3://{bucket}/data"
    with FaultProxy(s3) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        get_client.cache_clear()

        def count_reads():
            reads = [request for request in proxy.requests if request.key.endswith(".tar")]
            proxy.requests.clear()
            return len(reads)

        cached = read_batches(location, 0, 8, cache=ShardCache(tmp_path / "cache", 10**9))
        assert count_reads() == len(SIZES)
        again = read_batches(location, 0, 8, cache=ShardCache(tmp_path / "cache", 10**9))
        assert count_reads() == 0
        assert read_batches(location, 0, 8)
        assert count_reads() == len(SIZES)
    expected = read_batches(folder, 0, 8)
    assert all_equal(cached, expected)
    assert all_equal(again, expected)
