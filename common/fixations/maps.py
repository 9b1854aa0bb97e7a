"""Attention maps that no network predicts: blurred human fixations and the center prior."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.saliency import Points, points_to_pixels

TRUNCATE = 4.0  # the Gaussian is cut off at this many sigmas, the default of scipy.ndimage.gaussian_filter
CENTER_SHARE = 0.25  # scores best on OSIE's eye fixations (CC 0.30, NSS 0.85); shares from 0.2 to 0.33 are as good


def blur_fixations(
    points: Points | Sequence[Points],
    height: int,
    width: int,
    sigma: float,
    weights: Points | Sequence[Points] | None = None,
) -> Tensor:
    """Return a fixation map: one impulse per fixation, blurred with a Gaussian.

    Equals scipy.ndimage.gaussian_filter with mode="constant": the Gaussian is cut off at 4 sigmas, and what falls
    outside of the frame is lost. SALICON's maps have a sigma of 19 pixels at a width of 640; for another width, use
    19 / 640 * width.

    Args:
        points: fixations of one image, [n, 2 or more] with x and y in [0, 1] in the first columns, or a list of B.
        height, width: size of the map in pixels.
        sigma: standard deviation of the Gaussian, in pixels of the map; 0 does not blur.
        weights: height of each impulse, [n] or a list of B; 1 by default.

    Returns float32 [H, W], or [B, H, W] for a list. Without fixations the map is zero. Raises ValueError if a point is
    outside of the frame, if a weight is not finite, or if shapes do not match.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma: expected pixels, 0 or more, found {sigma}")
    if isinstance(points, np.ndarray | Tensor):
        batch_weights = None if weights is None else [torch.as_tensor(weights, dtype=torch.float64)]
        return blur_fixations([points], height, width, sigma, batch_weights)[0]
    device = next((array.device for array in points if isinstance(array, Tensor)), torch.device("cpu"))
    impulses = torch.zeros(len(points), height, width, dtype=torch.float64, device=device)
    pixels, counts = points_to_pixels("points", points, impulses)
    images = torch.arange(len(points)).repeat_interleave(torch.from_numpy(counts))
    impulse_heights = _concat_weights(weights, counts).to(device)
    impulses.view(-1).index_add_(0, (images * height * width + pixels).to(device), impulse_heights)
    return (_blur_matrix(height, sigma).to(device) @ impulses @ _blur_matrix(width, sigma).to(device)).float()


def center_prior(height: int, width: int, share: float = CENTER_SHARE) -> Tensor:
    """Return the baseline that ignores the image: a centered Gaussian whose sigma is `share` of each side.

    Returns float32 [H, W], 1 at the center of the frame. Raises ValueError if `share` is not above 0.
    """
    if not share > 0:
        raise ValueError(f"share: expected a share of the frame above 0, found {share}")
    column, row = (torch.exp(-0.5 * (torch.arange(1 - n, n, 2) / (2 * n * share)) ** 2) for n in (height, width))
    return torch.outer(column, row)


def _concat_weights(weights: Points | Sequence[Points] | None, counts: np.ndarray) -> Tensor:
    """Return the weights of all points, image after image, float64 [N]."""
    if weights is None:
        return torch.ones(int(counts.sum()), dtype=torch.float64)
    arrays = [torch.as_tensor(array, dtype=torch.float64).cpu() for array in weights]
    expected, found = [[count] for count in counts.tolist()], [list(array.shape) for array in arrays]
    if expected != found:
        raise ValueError(f"weights: expected one for each point, of shapes {expected}, found {found}")
    joined = torch.cat([torch.empty(0, dtype=torch.float64), *arrays])
    if not joined.isfinite().all():
        raise ValueError("weights: expected finite numbers, found NaN or infinity")
    return joined


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the symmetric matrix that blurs one side of `size` pixels, float64 [size, size]."""
    radius = int(TRUNCATE * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(radius + 1, dtype=torch.float64) / max(sigma, 1e-300)) ** 2)
    kernel /= 2 * kernel.sum() - 1  # the sum over both halves, which share the center
    distances = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    return torch.where(distances <= radius, kernel[distances.clamp(max=radius)], 0)
