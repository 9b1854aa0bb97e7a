"""Low-level saliency of images, without training: the spectral residual (Hou and Zhang 2007)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

SIDE = 64  # of the gray image and of the map, in pixels, as in the paper
SMOOTHING = 2.5  # standard deviation in pixels of the map, as in the authors' code
KERNEL = 21  # size of the Gaussian, 4 standard deviations to each side
FLOOR = 1e-6  # amplitudes, relative to the largest, at which rounding dominates


def spectral_residual(images: Tensor) -> Tensor:
    """Compute the saliency of RGB images in [0, 1], float32 [B, 3, H, W], on their device.

    The residual is the logarithm of the Fourier amplitude minus its mean over 3 x 3 frequencies. With the image's own
    phases it is transformed back, squared and smoothed: what is unexpected in the spectrum of the image stands out.

    Returns float32 [B, 64, 64], 1 at each map's maximum; a black image gives zeros.
    """
    gray = F.interpolate(rgb_to_grayscale(images), (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
    spectrum = torch.fft.fft2(gray)
    amplitude = spectrum.abs()
    floor = (FLOOR * amplitude.amax((1, 2), keepdim=True)).clamp(min=torch.finfo(amplitude.dtype).tiny)
    expected = F.avg_pool2d(F.pad((amplitude + floor).log()[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    # exp(log amplitude - expected) at the spectrum's phases is the spectrum divided by exp(expected)
    energy = torch.fft.ifft2(spectrum * (-expected).exp()).abs().square()
    maps = gaussian_blur(energy[:, None], [KERNEL, KERNEL], [SMOOTHING, SMOOTHING])[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
