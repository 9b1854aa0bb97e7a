"""Maps that no network makes: those of people's fixations, and the centre prior that looks at no image."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.saliency import Points, points_to_pixels

REACH = 4.0  # the Gaussian is cut off at so many sigmas, as scipy.ndimage does
CENTER_SHARE = 0.25  # where the prior does best on OSIE's eye fixations (CC 0.30, NSS 0.85); 0.2 to 0.33 do as well


def blur_fixations(
    points: Points | Sequence[Points],
    height: int,
    width: int,
    sigma: float,
    weights: Points | Sequence[Points] | None = None,
) -> Tensor:
    """A fixation map: one impulse a point, blurred with a Gaussian of `sigma` pixels of this map.

    Human maps have sigma 19 at a width of 640, so 19 / 640 * width at another. The Gaussian is cut off at 4 sigmas and
    what falls outside of the frame is lost: scipy.ndimage.gaussian_filter with mode="constant".
    `points` [n, 2 or more] -> float32 [H, W]; a list of B -> [B, H, W]. `weights` [n] or a list of B: the impulses'
    heights, 1 by default. No points give a map of zeros. Raises ValueError like the metrics.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma: expected pixels, 0 or more, found {sigma}")
    if isinstance(points, np.ndarray | Tensor):
        return blur_fixations([points], height, width, sigma, None if weights is None else [weights])[0]  # type: ignore[list-item]
    device = next((array.device for array in points if isinstance(array, Tensor)), torch.device("cpu"))
    impulses = torch.zeros(len(points), height, width, dtype=torch.float64, device=device)
    pixels, counts = points_to_pixels("points", points, impulses)
    images = torch.arange(len(points)).repeat_interleave(torch.from_numpy(counts))
    heights = _weights(weights, counts).to(device)
    impulses.view(-1).index_add_(0, (images * height * width + pixels).to(device), heights)
    return (_blurring(height, sigma).to(device) @ impulses @ _blurring(width, sigma).to(device)).float()


def center_prior(height: int, width: int, share: float = CENTER_SHARE) -> Tensor:
    """The baseline that looks at no image: a Gaussian in the middle whose sigma is `share` of either side.

    Returns float32 [H, W], 1 at the middle of the frame. Raises ValueError where `share` is not above 0.
    """
    if not share > 0:
        raise ValueError(f"share: expected a share of the frame above 0, found {share}")
    down, right = (torch.exp(-0.5 * (torch.arange(1 - n, n, 2) / (2 * n * share)) ** 2) for n in (height, width))
    return torch.outer(down, right)


def _weights(weights: Points | Sequence[Points] | None, counts: np.ndarray) -> Tensor:
    """The weights of all points, image after image, float64 [N]."""
    if weights is None:
        return torch.ones(int(counts.sum()), dtype=torch.float64)
    arrays = [torch.as_tensor(array, dtype=torch.float64).cpu() for array in weights]
    expected, found = [[count] for count in counts.tolist()], [list(array.shape) for array in arrays]
    if expected != found:
        raise ValueError(f"weights: expected one for each point, of shapes {expected}, found {found}")
    joined = torch.cat([torch.empty(0, dtype=torch.float64), *arrays])
    if not joined.isfinite().all():
        raise ValueError("weights: NaN or infinity")
    return joined


def _blurring(size: int, sigma: float) -> Tensor:
    """The matrix that blurs `size` pixels along one side, float64 [size, size]; symmetric."""
    reach = int(REACH * sigma + 0.5)
    profile = torch.exp(-0.5 * (torch.arange(reach + 1, dtype=torch.float64) / max(sigma, 1e-300)) ** 2)
    profile /= 2 * profile.sum() - 1
    distances = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    return torch.where(distances <= reach, profile[distances.clamp(max=reach)], 0)
