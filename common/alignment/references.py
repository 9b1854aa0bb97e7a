"""What predictions of an image are compared with: human attention on it and, as controls, on the other images.

All references of an image depend on its data set, the seed and its name, and not on which images are scored together
with it.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.fixations import FixatedImage
from common.saliency import resize_map

NEGATIVE_IMAGES = 10  # images whose fixations are shuffled AUC's negatives, as in the MIT saliency benchmark
PRIOR_HEIGHT, PRIOR_WIDTH = 120, 160  # of the center prior; the Gaussians that it adds up have a sigma of 5 pixels
NO_POINTS = np.empty((0, 2), np.float32)


class Reference(NamedTuple):
    """What predictions of one image [H, W] are compared with.

    Attributes:
        attention: human attention map, [H, W].
        fixations: fixations on the image, [n, 2] of x and y in [0, 1].
        negatives: fixations on other images, [m, 2], the negatives of shuffled AUC.
        permuted: human attention map of another image, resized to [H, W]; None if the data set has a single image.
        center_prior: mean human attention map of all other images, resized to [H, W]; None for a single image.
    """

    attention: Tensor
    fixations: np.ndarray
    negatives: np.ndarray
    permuted: Tensor | None
    center_prior: Tensor | None

    def to(self, device: torch.device) -> "Reference":
        """Return the same reference with its maps on a device."""
        return self._replace(
            attention=self.attention.to(device),
            permuted=None if self.permuted is None else self.permuted.to(device),
            center_prior=None if self.center_prior is None else self.center_prior.to(device),
        )


class References:
    """Makes the references of a data set's images.

    Args:
        images: all images of the data set, with distinct names, also those that are not scored.
        seed: random seed of negatives and permuted targets.
    """

    def __init__(self, images: Sequence[FixatedImage], seed: int) -> None:
        self._images, self._seed = images, seed
        self._partners = _draw_partners(images, seed)
        self._prior_sum = torch.zeros(PRIOR_HEIGHT, PRIOR_WIDTH, dtype=torch.float64)
        for image in images:
            self._prior_sum += _small_map(image)

    def generator(self, image: FixatedImage) -> np.random.Generator:
        """Return a random generator that depends on the seed and the image's name only."""
        return np.random.default_rng([self._seed, zlib.crc32(image.name.encode("utf-8", "surrogateescape"))])

    def reference(self, image: FixatedImage, generator: np.random.Generator) -> Reference:
        """Return what predictions of an image are compared with; the generator draws the negatives."""
        partner = self._partners.get(image.name)
        return Reference(
            _frame_map(image, image),
            image.fixations,
            self._draw_negatives(image, generator),
            None if partner is None else _frame_map(partner, image),
            self._center_prior(image),
        )

    def _center_prior(self, image: FixatedImage) -> Tensor | None:
        if len(self._images) < 2:
            return None
        others = (self._prior_sum - _small_map(image)).clamp(min=0)  # rounding may leave values just below 0
        return resize_map((others / (len(self._images) - 1)).float(), (image.height, image.width))

    def _draw_negatives(self, image: FixatedImage, generator: np.random.Generator) -> np.ndarray:
        """Return the fixations [m, 2] of random other images of the data set."""
        chosen = [self._images[index] for index in generator.permutation(len(self._images))[: NEGATIVE_IMAGES + 1]]
        others = [other.fixations for other in chosen if other.name != image.name][:NEGATIVE_IMAGES]
        return np.concatenate([NO_POINTS, *others])


def _draw_partners(images: Sequence[FixatedImage], seed: int) -> dict[str, FixatedImage]:
    """Assign another image to each image's name by a random cycle through all of them; none to a single image."""
    order = np.random.default_rng([seed, len(images)]).permutation(len(images)).tolist()
    if len(order) < 2:
        return {}
    following = [*order[1:], order[0]]
    return {images[index].name: images[partner] for index, partner in zip(order, following, strict=True)}


def _frame_map(image: FixatedImage, frame: FixatedImage) -> Tensor:
    """Return the human attention map of an image, resized to the size of another one."""
    return resize_map(image.attention_map(image.height, image.width), (frame.height, frame.width))


def _small_map(image: FixatedImage) -> Tensor:
    """Return the human attention map of an image at the size of the center prior, float64.

    Every fixation adds the same mass, whatever the size and the shape of the image.
    """
    height = max(round(PRIOR_WIDTH * image.height / image.width), 1)  # the blur is equal in both directions
    small = resize_map(image.attention_map(height, PRIOR_WIDTH), (PRIOR_HEIGHT, PRIOR_WIDTH)).double()
    return small * (height / PRIOR_HEIGHT)
