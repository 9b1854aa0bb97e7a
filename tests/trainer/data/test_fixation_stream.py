import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from common.errors import UserError
from common.fixations import FixatedImage, FixationData
from common.parallel import Decoders
from common.settings import load_settings
from tests.support.data.datasets import make_dataset
from tests.support.data.people import write_people_csv
from trainer.config import TrainSettings
from trainer.data import fixation_stream
from trainer.data.fixation_stream import HumanStream, decode_human_sample, fixations_checksum, open_human_data
from trainer.job import prepare_run

THREADS, PROCESSES = Decoders(2, False), Decoders(2, True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return open_human_data([write_people_csv(tmp_path_factory.mktemp("people") / "csv", 10)])


def make_stream(images, batch_size=4, rank=0, world_size=1, seed=0, decoders=THREADS):
    return HumanStream(images, batch_size, seed, 32, rank, world_size, decoders)


class KillingImage(FixatedImage):
    """An image that ends the process that reads it."""

    def pixels(self):
        os._exit(1)


def equal(first, second):
    """Return True if two batches have the same images, maps and fixations."""
    return all(
        torch.equal(x.image, y.image)
        and torch.equal(x.attention, y.attention)
        and np.array_equal(x.fixations, y.fixations)
        for x, y in zip(first, second, strict=True)
    )


def all_equal(first, second):
    """Return True if two sequences contain the same batches, at least one."""
    first, second = list(first), list(second)
    return len(first) == len(second) > 0 and all(map(equal, first, second))


def test_threads_and_processes_make_the_same_batches(images):
    by_threads = make_stream(images, decoders=THREADS).batches(0, 5)
    by_processes = make_stream(images, decoders=PROCESSES).batches(0, 5)
    assert all_equal(by_threads, by_processes)


def test_death_of_a_decoder_process_raises_user_error(images):
    killing = [KillingImage(**vars(images[0]))] * 4
    with pytest.raises(UserError, match="a process that decodes samples died"):
        list(make_stream(killing, decoders=PROCESSES).batches(0, 2))


def test_sample_is_the_whole_frame_with_its_map_and_fixations(images):
    sample = decode_human_sample(images[0], 32)
    assert sample.image.shape == (3, 32, 32)
    assert sample.attention.shape == (32, 32)
    assert sample.image.dtype == sample.attention.dtype == torch.uint8
    assert np.array_equal(sample.fixations, images[0].fixations)
    expected = Image.fromarray(images[0].pixels().permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BICUBIC)
    difference = sample.image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    x, y = sample.fixations[0]
    row, column = np.unravel_index(int(sample.attention.argmax()), (32, 32))
    assert max(abs(column + 0.5 - 32 * x), abs(row + 0.5 - 32 * y)) < 1.5


def test_map_is_blurred_by_19_pixels_at_a_width_of_640_in_the_aspect_ratio_of_the_image(tmp_path):
    [image] = open_human_data([write_people_csv(tmp_path / "csv", 1, 320, 160)])
    size = 160
    attention = decode_human_sample(image, size).attention.double().numpy()
    x, y = image.fixations[0]
    impulse = np.zeros((320, 640))
    impulse[int(y * 320), int(x * 640)] = 1
    expected = ndimage.zoom(ndimage.gaussian_filter(impulse, 19, mode="constant"), (0.5, 0.25), order=1, grid_mode=True)
    assert np.corrcoef(attention.ravel(), expected.ravel())[0, 1] > 0.995
    deviations = [
        np.sqrt(np.average((np.arange(size) - np.average(np.arange(size), weights=profile)) ** 2, weights=profile))
        for profile in (attention.sum(0), attention.sum(1))
    ]
    assert deviations == pytest.approx([19 / 4, 19 / 2], rel=0.05)


def test_every_epoch_has_every_image_once_in_another_order(images):
    order = [sample.fixations.tobytes() for batch in make_stream(images, 5).batches(0, 4) for sample in batch]
    assert set(order[:10]) == set(order[10:]) == {image.fixations.tobytes() for image in images}
    assert order[:10] != order[10:]


@pytest.mark.parametrize("batch_size", [4, 25])
def test_stream_resumed_at_a_step_continues_an_uninterrupted_one(images, batch_size):
    batches = list(make_stream(images, batch_size).batches(0, 6))
    assert [len(samples) for samples in batches] == [batch_size] * 6
    assert all_equal(batches[4:], make_stream(images, batch_size).batches(4, 6))
    assert not equal(batches[0], next(make_stream(images, batch_size, seed=1).batches(0, 1)))


def test_ranks_divide_the_batches_of_one_process_and_resume_each_others_run(images):
    """The number of ranks changes in the middle of an epoch of ten images."""
    whole = list(make_stream(images, 8).batches(0, 9))
    for world_size, first, end in ((2, 0, 1), (4, 1, 4), (8, 4, 7), (1, 7, 8), (2, 8, 9)):
        streams = [make_stream(images, 8, rank, world_size).batches(first, end) for rank in range(world_size)]
        for batch, parts in zip(whole[first:end], zip(*streams, strict=True), strict=True):
            assert equal(batch, [sample for part in parts for sample in part])
            assert {len(part) for part in parts} == {8 // world_size}


def test_batch_that_ranks_cannot_share_is_refused(images):
    with pytest.raises(UserError, match="--human-batch-size 4: expected a multiple of the number of workers, 3"):
        make_stream(images, world_size=3)


def test_several_data_sets_are_joined_and_have_their_own_checksum(images, tmp_path):
    other = write_people_csv(tmp_path / "other", 3)
    both = open_human_data([other, other])
    assert len(both) == 6
    assert len({fixations_checksum(images), fixations_checksum(both), fixations_checksum(both[:3])}) == 3
    assert fixations_checksum(open_human_data([other])) == fixations_checksum(both[:3])


def test_only_the_training_split_is_used(tmp_path, monkeypatch):
    images = open_human_data([write_people_csv(tmp_path / "csv", 3)])
    with_splits = [replace(image, split=name) for image, name in zip(images, ("train", "val", "train"), strict=True)]
    monkeypatch.setattr(fixation_stream, "open_fixations", lambda *_: FixationData(with_splits, {}, {}))
    assert [image.name for image in open_human_data(["salicon:X"])] == ["0.jpg", "2.jpg"]


def test_exclusions_are_reported(tmp_path):
    location = write_people_csv(tmp_path / "csv", 3)
    (tmp_path / "csv/images/1.jpg").unlink()
    (tmp_path / "csv/images/2.jpg").write_bytes(b"")
    notes = []
    assert [image.name for image in open_human_data([location], notes.append)] == ["0.jpg"]
    assert sorted(notes) == [
        f"Excluded from {location}: 1 image whose file cannot be read (first: 2.jpg)",
        f"Excluded from {location}: 1 image with fixations but without a file (first: 1.jpg)",
    ]


def test_runs_report_exclusions_once(tmp_path, capsys):
    location = write_people_csv(tmp_path / "people", 3)
    (tmp_path / "people/images/1.jpg").unlink()
    data = make_dataset(tmp_path / "data", [8], 2)
    flags = [f"--data={data}", "--recipe=contrastive-attn-cotrain", f"--human-data={location}", "--batch-size=4"]
    settings = load_settings(TrainSettings, [*flags, f"--output={tmp_path / 'run'}"])
    prepare_run(settings)
    prepare_run(settings)
    assert capsys.readouterr().err.splitlines() == [
        f"Excluded from {location}: 1 image with fixations but without a file (first: 1.jpg)"
    ]


def test_error_for_an_invalid_location_names_the_flag(tmp_path):
    with pytest.raises(UserError, match="--human-data table:x: expected FORMAT:FOLDER"):
        open_human_data(["table:x"])
    with pytest.raises(UserError, match=r"--human-data csv:.*: there is no folder"):
        open_human_data([f"csv:{tmp_path}/none"])
