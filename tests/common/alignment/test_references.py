from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from common.alignment.references import NEGATIVE_IMAGES, PRIOR_HEIGHT, PRIOR_WIDTH, References
from common.fixations import FixatedImage, open_fixations
from tests.support.data.fixation_data import random_fixations, write_fixation_data

SIZES = ((64, 48), (48, 64), (160, 120), (90, 60))  # width, height


def make_image(number: int, size: tuple[int, int] = (64, 48), fixations: int = 9) -> FixatedImage:
    points = np.random.default_rng(number).uniform(0.05, 0.95, (fixations, 2)).astype(np.float32)
    name = f"{number:03}.jpg"
    return FixatedImage(name, Path(name), *size, points, np.zeros(fixations, np.int32))


def make_images(count: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[FixatedImage]:
    return [make_image(number, sizes[number % len(sizes)], 4 + number) for number in range(count)]


def reference(references: References, image: FixatedImage):
    return references.reference(image, references.generator(image))


def find_partners(images: list[FixatedImage], seed: int) -> list[str]:
    """Return for each image the name of the image whose map is its permuted target, which must be exactly one."""
    references = References(images, seed)
    maps = {image.name: image.attention_map(image.height, image.width) for image in images}
    partners = []
    for image in images:
        permuted = reference(references, image).permuted
        assert permuted is not None
        [name] = [name for name, attention in maps.items() if torch.equal(permuted, attention)]
        partners.append(name)
    return partners


def test_permuted_target_is_the_map_of_another_image_and_every_map_is_used_once() -> None:
    images = make_images(11, SIZES[:1])
    for seed in range(5):
        partners = find_partners(images, seed)
        assert all(partner != image.name for partner, image in zip(partners, images, strict=True))
        assert sorted(partners) == [image.name for image in images]


def test_permuted_targets_depend_on_the_seed_only() -> None:
    images = make_images(11, SIZES[:1])
    partners = [find_partners(images, seed) for seed in (0, 0, 1)]
    assert partners[0] == partners[1] != partners[2]


def test_maps_of_other_images_have_the_size_of_the_image() -> None:
    images = make_images(6)
    references = References(images, 0)
    for image in images:
        found = reference(references, image)
        assert found.permuted is not None
        assert found.center_prior is not None
        assert found.attention.shape == found.permuted.shape == found.center_prior.shape == (image.height, image.width)
        assert torch.equal(found.attention, image.attention_map(image.height, image.width))


def test_center_prior_is_the_mean_of_the_human_maps_of_all_other_images() -> None:
    images = make_images(7, SIZES[2:3])
    assert SIZES[2] == (PRIOR_WIDTH, PRIOR_HEIGHT)
    references = References(images, 0)
    for left_out in images:
        maps = []
        for image in images:
            impulses = np.zeros((image.height, image.width))
            columns, rows = (image.fixations * (image.width, image.height)).astype(int).T
            np.add.at(impulses, (rows, columns), 1)
            maps.append(gaussian_filter(impulses, 19 / 640 * image.width, mode="constant", truncate=4))
        expected = np.mean([map for map, image in zip(maps, images, strict=True) if image is not left_out], axis=0)
        prior = reference(references, left_out).center_prior
        assert prior is not None
        np.testing.assert_allclose(prior.numpy(), expected, atol=1e-6)
        assert prior.amin() >= 0


def test_center_prior_at_its_fixed_size_is_near_that_of_full_size_maps() -> None:
    images = make_images(8, ((640, 480), (480, 640), (800, 500)))
    references = References(images, 0)
    # maps of larger images are lower, as an impulse is spread over more pixels
    maps = [
        image.attention_map(image.height, image.width)[None, None] * (image.height * image.width) for image in images
    ]
    for index, image in enumerate(images):
        others = [
            torch.nn.functional.interpolate(other, (image.height, image.width), mode="bilinear", antialias=True)
            for number, other in enumerate(maps)
            if number != index
        ]
        expected = torch.stack(others).mean(0).flatten()
        prior = reference(references, image).center_prior
        assert prior is not None
        assert np.corrcoef(prior.flatten(), expected)[0, 1] > 0.997


def test_references_of_an_image_do_not_depend_on_the_order_in_which_images_are_scored() -> None:
    images = make_images(9)
    first, again = References(images, 3), References(images, 3)
    expected = [reference(first, image) for image in images]
    for image, before in reversed(list(zip(images, expected, strict=True))):
        after = reference(again, image)
        assert np.array_equal(after.negatives, before.negatives)
        assert after.center_prior is not None
        assert after.permuted is not None
        assert torch.equal(after.center_prior, before.center_prior)
        assert torch.equal(after.permuted, before.permuted)


def test_own_fixations_enter_neither_prior_nor_negatives() -> None:
    images = make_images(6, SIZES[:1])
    moved = replace(images[2], fixations=1 - images[2].fixations)
    before = reference(References(images, 0), images[2])
    after = reference(References([moved if image is images[2] else image for image in images], 0), moved)
    assert np.array_equal(after.negatives, before.negatives)
    assert not torch.equal(after.attention, before.attention)
    torch.testing.assert_close(after.center_prior, before.center_prior, atol=1e-7, rtol=1e-6)


def test_negatives_are_the_fixations_of_ten_other_images(tmp_path: Path) -> None:
    images = open_fixations(write_fixation_data(tmp_path, random_fixations(images=14, fixations=3))).images
    own = {tuple(point) for point in images[5].fixations.tolist()}
    others = {tuple(point) for image in images if image is not images[5] for point in image.fixations.tolist()}
    for seed in range(20):
        negatives = reference(References(images, seed), images[5]).negatives
        assert len(negatives) == NEGATIVE_IMAGES * 6
        assert not {tuple(point) for point in negatives.tolist()} & (own - others)


@pytest.mark.parametrize("seed", [0, 1])
def test_single_image_has_no_references_of_other_images(seed: int) -> None:
    found = reference(References([make_image(0)], seed), make_image(0))
    assert found.permuted is found.center_prior is None
    assert found.negatives.shape == (0, 2)
