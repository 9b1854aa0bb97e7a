import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter

from tests.support.data.pictures import photograph
from trainer.model.spectral_residual import SIDE, spectral_residual


def transcribe(gray):
    """Compute the spectral residual of a gray image in float64 with NumPy and SciPy, step by step as in the paper."""
    spectrum = np.fft.fft2(gray)
    log_amplitude, phase = np.log(np.abs(spectrum)), np.angle(spectrum)
    residual = log_amplitude - uniform_filter(log_amplitude, 3, mode="nearest")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** 2
    saliency = gaussian_filter(saliency, 2.5, mode="mirror", truncate=4)
    return saliency / saliency.max()


def test_maps_equal_those_of_a_transcription():
    images = [np.asarray(photograph(SIDE, SIDE)), np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))]
    batch = torch.stack([torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1) for image in images])
    for found, image in zip(spectral_residual(batch), images, strict=True):
        expected = transcribe(image @ (0.2989, 0.587, 0.114) / 255)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def test_an_object_on_a_regular_background_stands_out():
    pixels = np.full((96, 128, 3), 120, np.uint8)
    pixels[::8] = pixels[:, ::8] = 90
    pixels[40:52, 84:100] = (250, 40, 40)
    [found] = spectral_residual(
        torch.from_numpy(np.array(Image.fromarray(pixels))).permute(2, 0, 1)[None].float() / 255
    )
    row, column = divmod(int(found.argmax()), SIDE)
    assert 40 / 96 * SIDE - 2 <= row <= 52 / 96 * SIDE + 2
    assert 84 / 128 * SIDE - 2 <= column <= 100 / 128 * SIDE + 2


@pytest.mark.parametrize("gray", [0.0, 0.5, 1.0])
def test_maps_of_uniform_images_are_uniform(gray):
    maps = spectral_residual(torch.full((2, 3, 40, 40), gray))
    assert maps.isfinite().all()
    assert (maps - maps[0, 0, 0]).abs().max() < 1e-6


def test_map_does_not_depend_on_the_other_images_of_a_batch():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectral_residual(images)[1:2], spectral_residual(images[1:2]))
