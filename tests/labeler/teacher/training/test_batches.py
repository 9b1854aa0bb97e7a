import itertools

import pytest
import torch

from common.errors import UserError
from labeler.teacher.training.batches import Batches
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.examples import open_training_data
from tests.support.pictures import jpeg, write


def batches(folder, rank=0, world=1, distill=(), **changes):
    config = TeacherTrainConfig(
        data=[f"csv:{folder / 'people'}"], distill=list(distill), epochs=2, batch_size=4, **changes
    )
    data = open_training_data(config.data, config.distill, config.validation, config.seed)
    return Batches(config, data, rank, world, threads=2)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, torch.Tensor)) and all(
        (a == b).all() for a, b in zip(one.points, other.points, strict=True)
    )


def test_an_epoch_shows_each_image_once(folder):
    made = batches(folder)
    assert made.steps_per_epoch == 2
    epoch = list(itertools.islice(made.from_step(0), 2))
    points = [tuple(sorted(map(len, batch.points))) for batch in epoch]
    assert len(points) == 2
    assert [batch.pixels.shape for batch in epoch] == [(4, 3, 480, 640)] * 2
    assert all(batch.labelled.all() for batch in epoch)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_batches_from_a_step_are_those_of_a_run_that_got_there(folder, step):
    whole = list(batches(folder).from_step(0))
    assert len(whole) == 4
    rest = list(batches(folder).from_step(step))
    assert len(rest) == 4 - step
    assert all(same(one, other) for one, other in zip(rest, whole[step:], strict=True))


def test_epochs_show_other_views(folder):
    whole = list(batches(folder).from_step(0))
    assert not same(whole[0], whole[2])


def test_two_ranks_share_the_batches_of_one(folder):
    whole = next(batches(folder).from_step(0))
    parts = [next(batches(folder, rank, 2).from_step(0)) for rank in range(2)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)


def test_unlabelled_photographs_join_in_equal_number_unless_told_otherwise(folder):
    made = batches(folder, distill=[str(folder / "more")])
    epoch = list(itertools.islice(made.from_step(0), made.steps_per_epoch))
    labelled = torch.cat([batch.labelled for batch in epoch])
    assert (len(labelled), int(labelled.sum())) == (16, 8)
    assert batches(folder, distill=[str(folder / "more")], distill_images=20).steps_per_epoch == 7


def test_a_broken_photograph_is_passed_over_and_named(folder, tmp_path, capsys):
    write(tmp_path / "more", {"a.jpg": b"no picture", "b.jpg": jpeg(seed=200)})
    made = batches(folder, distill=[str(tmp_path / "more")], distill_images=40)
    list(itertools.islice(made.from_step(0), made.steps_per_epoch))
    assert "a.jpg: passed over (not_an_image" in capsys.readouterr().err


def test_batches_that_ranks_cannot_share_are_refused(folder):
    with pytest.raises(UserError, match="--batch-size 4: expected a multiple of --workers 3"):
        batches(folder, 0, 3)


def test_fewer_images_than_a_batch_are_refused(folder):
    config = TeacherTrainConfig(data=[f"csv:{folder / 'people'}"], batch_size=9)
    data = open_training_data(config.data, [], 0.2, 0)
    with pytest.raises(UserError, match="--batch-size 9: there are only 8 images"):
        Batches(config, data, 0, 1, 1)
