"""What each target of the attention branch may see, and that its points belong to its maps."""

import math

import numpy as np
import pytest
import torch

from common.saliency import nss
from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.objectives import AttentionObjective
from trainer.objectives.attention_targets import (
    CENTER_SIDE,
    CenterTarget,
    LowLevelTarget,
    PermutedTarget,
    TeacherTarget,
    draw_derangement,
)
from trainer.objectives.base import ModelInputs

IMAGES, SIDE = 6, 32


def make_inputs(seed=0, step=0):
    """Return a batch whose maps have one bright pixel each, a different one, at their only gaze point."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator)
    maps, points = torch.zeros(IMAGES, SIDE, SIDE), []
    for index in range(IMAGES):
        maps[index, 3 * index + 1, 2 * index] = 1
        points.append(np.array([[(2 * index + 0.5) / SIDE, (3 * index + 1.5) / SIDE, 1]], np.float32))
    return ModelInputs((clean, clean), clean, maps, points, torch.zeros(IMAGES, dtype=torch.int64), (0, 4, step, 0))


def permutation_of(inputs):
    """Return which image's map is the target of each image, by the permuted target."""
    maps = PermutedTarget()(inputs).maps.flatten(1)
    return (maps @ inputs.attention.flatten(1).T).argmax(1).tolist()


def center_target():
    target = CenterTarget()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 50), torch.linspace(-1, 1, 50), indexing="ij")
    target.set_map(torch.exp(-4 * ((x - 0.2).square() + y.square())))
    return target


def test_target_of_the_teacher_is_what_the_batch_contains():
    inputs = make_inputs()
    target = TeacherTarget()(inputs)
    assert target.maps is inputs.attention
    assert target.points is inputs.gaze


def test_permuted_target_is_each_map_once_and_never_that_of_the_image_itself():
    for step in range(50):
        others = permutation_of(make_inputs(step=step))
        assert sorted(others) == list(range(IMAGES))
        assert all(other != own for own, other in enumerate(others))


def test_permuted_points_belong_to_the_permuted_map():
    inputs = make_inputs()
    target = PermutedTarget()(inputs)
    for other, attention, points in zip(permutation_of(inputs), target.maps, target.points, strict=True):
        assert torch.equal(attention, inputs.attention[other])
        assert points is inputs.gaze[other]


def test_permutation_depends_on_the_seed_of_the_batch_alone_and_leaves_global_generators_unchanged():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    permutations = [permutation_of(make_inputs(step=step)) for step in range(20)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    torch.manual_seed(1)
    np.random.seed(1)
    assert permutations == [permutation_of(make_inputs(seed=9, step=step)) for step in range(20)]
    assert len({tuple(permutation) for permutation in permutations}) > 15


def test_derangements_are_drawn_with_equal_probability():
    generator, draws = np.random.default_rng(0), 9000
    counts = {}
    for _ in range(draws):
        order = tuple(draw_derangement(generator, 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 9  # of 24 permutations
    assert max(abs(count - draws / 9) for count in counts.values()) < 5 * math.sqrt(draws / 9)


@pytest.mark.parametrize("length", [0, 1])
def test_a_single_image_has_no_other(length):
    with pytest.raises(ValueError, match=f"expected two elements or more to exchange, found {length}"):
        draw_derangement(np.random.default_rng(0), length)


@pytest.mark.parametrize("target", [center_target(), LowLevelTarget()], ids=["center", "lowlevel"])
def test_target_reads_neither_maps_nor_points_of_the_batch(target):
    inputs = make_inputs()
    garbage = inputs._replace(attention=torch.full((IMAGES, SIDE, SIDE), math.nan), gaze=[None] * IMAGES, labels=None)
    expected, found = target(inputs), target(garbage)
    assert torch.equal(found.maps, expected.maps)
    assert all(np.array_equal(*pair) for pair in zip(found.points, expected.points, strict=True))


def test_center_target_is_the_same_for_all_images_and_does_not_depend_on_them():
    target = center_target()
    first, second = target(make_inputs(seed=0)), target(make_inputs(seed=1))
    assert first.maps.shape == (IMAGES, SIDE, SIDE)
    assert torch.equal(first.maps, second.maps)
    assert all(torch.equal(attention, first.maps[0]) for attention in first.maps)


def test_low_level_target_of_an_image_depends_on_this_image_alone():
    inputs, others = make_inputs(seed=0), make_inputs(seed=1)
    mixed = inputs._replace(clean=torch.cat([inputs.clean[:1], others.clean[1:]]))
    expected, found = LowLevelTarget()(inputs), LowLevelTarget()(mixed)
    torch.testing.assert_close(found.maps[0], expected.maps[0])
    assert not torch.allclose(found.maps[1], expected.maps[1], atol=0.1)


@pytest.mark.parametrize("target", [center_target(), LowLevelTarget()], ids=["center", "lowlevel"])
def test_points_are_at_the_peaks_of_the_targets_own_map(target):
    found = target(make_inputs())
    assert len(found.points) == IMAGES
    assert all(points[0, 2] == 1 for points in found.points)  # the strongest
    strongest = [points[:1] for points in found.points]
    expected = [(attention.max() - attention.mean()) / attention.std(correction=0) for attention in found.maps]
    assert (nss(found.maps, strongest) > 0.9 * torch.stack(expected)).all()


def test_center_target_without_a_map_is_an_error():
    with pytest.raises(ValueError, match="the map's maximum is 0"):
        CenterTarget()(make_inputs())


def test_center_target_is_restored_from_a_checkpoint():
    target, other = center_target(), CenterTarget()
    other.load_state_dict(target.state_dict())
    assert other.mean_map.shape == (CENTER_SIDE, CENTER_SIDE)
    expected, found = target(make_inputs()), other(make_inputs())
    assert torch.equal(found.maps, expected.maps)
    assert np.array_equal(found.points[0], expected.points[0])


def test_loss_and_correlation_compare_with_the_target_that_is_used():
    objective = AttentionObjective(ModelConfig(), AttentionReadout(), target=center_target())
    inputs = make_inputs()
    terms = objective.loss_terms({"attention": objective.target(inputs).maps}, inputs)
    assert terms.figures["attention_cc"].item() == pytest.approx(1, abs=1e-4)
    assert terms.figures["kld"].item() == pytest.approx(0, abs=1e-5)
    assert terms.figures["nss"].item() > 1
