import os

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.errors import UserError
from common.fixations import FixatedImage
from common.parallel import Decoders
from common.settings import load_settings
from tests.support.datasets import make_dataset
from tests.support.people import make_people
from trainer.config import TrainSettings
from trainer.data import fixation_stream
from trainer.data.fixation_stream import HumanStream, decode_human_sample, fixations_checksum, open_human_data
from trainer.job import prepare_run


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return open_human_data([make_people(tmp_path_factory.mktemp("people") / "csv", 10)])


THREADS, PROCESSES = Decoders(2, False), Decoders(2, True)


def stream(people, batch=4, rank=0, world=1, seed=0, decoders=THREADS):
    return HumanStream(people, batch, seed, 32, rank, world, decoders)


class Deadly(FixatedImage):
    """Whoever reads it dies."""

    def pixels(self):
        os._exit(1)


def same(a, b):
    return all(
        torch.equal(x.image, y.image)
        and torch.equal(x.attention, y.attention)
        and np.array_equal(x.fixations, y.fixations)
        for x, y in zip(a, b, strict=True)
    )


def test_threads_and_processes_make_the_same_batches(people):
    by_threads, by_processes = (list(stream(people, decoders=each).batches(0, 5)) for each in (THREADS, PROCESSES))
    assert all(map(same, by_threads, by_processes))


def test_a_process_that_dies_ends_the_stream_with_a_sentence(people):
    deadly = [Deadly(**vars(people[0]))] * 4
    with pytest.raises(UserError, match="a process that decodes samples died"):
        list(stream(deadly, decoders=PROCESSES).batches(0, 2))


def test_a_sample_is_the_whole_frame_with_its_map_and_fixations(people):
    sample = decode_human_sample(people[0], 32)
    assert sample.image.shape == (3, 32, 32)
    assert sample.attention.shape == (32, 32)
    assert sample.image.dtype == sample.attention.dtype == torch.uint8
    assert np.array_equal(sample.fixations, people[0].fixations)
    x, y = sample.fixations[0]
    row, column = np.unravel_index(int(sample.attention.argmax()), (32, 32))
    assert (abs(column + 0.5 - 32 * x), abs(row + 0.5 - 32 * y)) < (1.5, 1.5)


def test_the_blur_is_19_pixels_at_640_in_the_photographs_shape(tmp_path):
    [image] = open_human_data([make_people(tmp_path / "csv", 1, 320, 160)])
    size = 160
    found = decode_human_sample(image, size).attention.double().numpy()
    x, y = image.fixations[0]
    impulse = np.zeros((320, 640))
    impulse[int(y * 320), int(x * 640)] = 1
    wanted = ndimage.zoom(ndimage.gaussian_filter(impulse, 19, mode="constant"), (0.5, 0.25), order=1, grid_mode=True)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995
    spreads = [
        np.sqrt(np.average((np.arange(size) - np.average(np.arange(size), weights=side)) ** 2, weights=side))
        for side in (found.sum(0), found.sum(1))
    ]
    assert spreads == pytest.approx([19 / 4, 19 / 2], rel=0.05)


def test_every_epoch_shows_every_image_once_in_another_order(people):
    shown = [sample.fixations.tobytes() for batch in stream(people, 5).batches(0, 4) for sample in batch]
    assert set(shown[:10]) == set(shown[10:]) == {image.fixations.tobytes() for image in people}
    assert shown[:10] != shown[10:]


@pytest.mark.parametrize("batch", [4, 25])
def test_from_any_step_on_the_batches_are_those_of_a_stream_that_never_stopped(people, batch):
    every = list(stream(people, batch).batches(0, 6))
    assert [len(samples) for samples in every] == [batch] * 6
    assert all(map(same, every[4:], stream(people, batch).batches(4, 6)))
    assert not same(every[0], next(stream(people, batch, seed=1).batches(0, 1)))


def test_ranks_share_the_batch_of_one_process_equally(people):
    whole = list(stream(people).batches(0, 4))
    parts = [list(stream(people, rank=rank, world=2).batches(0, 4)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert same(batch, parts[0][step] + parts[1][step])
        assert len(parts[0][step]) == len(parts[1][step])
    with pytest.raises(UserError, match="--human-batch-size 4: expected a multiple of the number of workers, 3"):
        stream(people, world=3)


def test_several_data_sets_are_one_and_the_checksum_knows_them(people, tmp_path):
    other = make_people(tmp_path / "other", 3)
    both = open_human_data([other, other])
    assert len(both) == 6
    assert len({fixations_checksum(people), fixations_checksum(both), fixations_checksum(both[:3])}) == 3
    assert fixations_checksum(open_human_data([other])) == fixations_checksum(both[:3])


def test_only_the_training_split_is_learnt_from(tmp_path, monkeypatch):
    from dataclasses import replace

    from common.fixations import FixationData

    images = open_human_data([make_people(tmp_path / "csv", 3)])
    split = [replace(image, split=name) for image, name in zip(images, ("train", "val", "train"), strict=True)]
    monkeypatch.setattr(fixation_stream, "open_fixations", lambda *_: FixationData(split, {}, {}))
    assert [image.name for image in open_human_data(["salicon:X"])] == ["0.jpg", "2.jpg"]


def test_what_is_left_out_is_told(tmp_path):
    place = make_people(tmp_path / "csv", 3)
    (tmp_path / "csv/images/1.jpg").unlink()
    (tmp_path / "csv/images/2.jpg").write_bytes(b"")
    notes = []
    assert [image.name for image in open_human_data([place], notes.append)] == ["0.jpg"]
    assert sorted(notes) == [
        f"Excluded from {place}: 1 image whose file cannot be read (first: 2.jpg)",
        f"Excluded from {place}: 1 image with fixations but without a file (first: 1.jpg)",
    ]


def test_a_run_tells_once_what_it_leaves_out(tmp_path, capsys):
    place = make_people(tmp_path / "people", 3)
    (tmp_path / "people/images/1.jpg").unlink()
    data = make_dataset(tmp_path / "data", [8], 2)
    flags = [f"--data={data}", "--recipe=contrastive-attn-cotrain", f"--human-data={place}", "--batch-size=4"]
    settings = load_settings(TrainSettings, [*flags, f"--output={tmp_path / 'run'}"])
    prepare_run(settings)
    prepare_run(settings)
    assert capsys.readouterr().err.splitlines() == [
        f"Excluded from {place}: 1 image with fixations but without a file (first: 1.jpg)"
    ]


def test_what_is_no_data_set_is_told_by_its_flag(tmp_path):
    with pytest.raises(UserError, match="--human-data table:x: expected FORMAT:FOLDER"):
        open_human_data(["table:x"])
    with pytest.raises(UserError, match=r"--human-data csv:.*: there is no folder"):
        open_human_data([f"csv:{tmp_path}/none"])
