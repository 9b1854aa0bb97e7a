import itertools
import threading

import pytest
import torch

from common.errors import UserError
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.data import open_training_data
from tests.support.data.pictures import jpeg, write


def make_batches(folder, rank=0, world_size=1, distill=(), **changes):
    config = TeacherTrainConfig(
        data=[f"csv:{folder / 'people'}"], distill=list(distill), epochs=2, batch_size=4, **changes
    )
    data = open_training_data(config.data, config.distill, config.validation, config.seed)
    return Batches(config, data, rank, world_size, threads=2)


def are_equal(first, second):
    tensors = [pair for pair in zip(first, second, strict=True) if isinstance(pair[0], torch.Tensor)]
    fixations = zip(first.fixations, second.fixations, strict=True)
    return all(torch.equal(*pair) for pair in tensors) and all((a == b).all() for a, b in fixations)


def test_epoch_shows_each_image_once(folder):
    batches = make_batches(folder, zoom=1)  # whole images, which the y of their fixations identify even if flipped
    assert batches.steps_per_epoch == 2
    epoch = list(itertools.islice(batches.from_step(0), 2))
    assert [batch.pixels.shape for batch in epoch] == [(4, 3, 480, 640)] * 2
    assert all(batch.has_fixations.all() for batch in epoch)
    images = open_training_data([f"csv:{folder / 'people'}"], [], 0.2, 0).fixated
    shown = [sorted(fixations[:, 1].tolist()) for batch in epoch for fixations in batch.fixations]
    assert sorted(shown) == sorted(sorted(image.fixations[:, 1].tolist()) for image in images)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_batches_from_a_step_equal_those_of_an_uninterrupted_run(folder, step):
    whole = list(make_batches(folder).from_step(0))
    assert len(whole) == 4
    rest = list(make_batches(folder).from_step(step))
    assert len(rest) == 4 - step
    assert all(are_equal(resumed, batch) for resumed, batch in zip(rest, whole[step:], strict=True))


def test_epochs_differ(folder):
    whole = list(make_batches(folder).from_step(0))
    assert not are_equal(whole[0], whole[2])


def test_closing_the_iterator_ends_its_threads(folder):
    threads = threading.active_count()
    batches = make_batches(folder).from_step(0)
    next(batches)
    assert threading.active_count() > threads
    batches.close()
    assert threading.active_count() == threads


def test_two_ranks_share_the_batches_of_a_single_rank(folder):
    whole = next(make_batches(folder).from_step(0))
    parts = [next(make_batches(folder, rank, 2).from_step(0)) for rank in range(2)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)


def test_as_many_distillation_images_as_fixated_ones_unless_configured(folder):
    batches = make_batches(folder, distill=[str(folder / "more")])
    epoch = list(itertools.islice(batches.from_step(0), batches.steps_per_epoch))
    has_fixations = torch.cat([batch.has_fixations for batch in epoch])
    assert (len(has_fixations), int(has_fixations.sum())) == (16, 8)
    assert make_batches(folder, distill=[str(folder / "more")], distill_images=20).steps_per_epoch == 7


def test_unreadable_distillation_image_is_skipped_and_named(folder, tmp_path, capsys):
    write(tmp_path / "more", {"a.jpg": b"no image", "b.jpg": jpeg(seed=200)})
    batches = make_batches(folder, distill=[str(tmp_path / "more")], distill_images=40)
    list(itertools.islice(batches.from_step(0), batches.steps_per_epoch))
    assert "a.jpg: skipped (not_an_image" in capsys.readouterr().err


def test_batch_size_that_ranks_cannot_share_is_a_user_error(folder):
    with pytest.raises(UserError, match="--batch-size 4: expected a multiple of --workers 3"):
        make_batches(folder, 0, 3)


def test_batch_size_larger_than_an_epoch_is_a_user_error(folder):
    config = TeacherTrainConfig(data=[f"csv:{folder / 'people'}"], batch_size=9)
    data = open_training_data(config.data, [], 0.2, 0)
    with pytest.raises(UserError, match="--batch-size 9: expected at most 8, the number of images"):
        Batches(config, data, 0, 1, 1)
