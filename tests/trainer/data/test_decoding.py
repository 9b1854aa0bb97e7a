import io

import numpy as np
import pytest
import torch
from PIL import Image

from common.shards import encode_points
from tests.support.data.datasets import disc_sample, write_dataset
from tests.support.data.pictures import encoded
from tests.support.training import make_stream
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.decoding import SampleRequest, UnreadableSample, ViewSpec, decode_piece
from trainer.data.sampler import Sampler

VIEWS = (draw_augmentation, draw_augmentation)
CORNERS = {(0, 0): (220, 30, 30), (0, -1): (30, 200, 30), (-1, 0): (40, 40, 220), (-1, -1): (220, 220, 40)}
CORNER = 12  # side of the squares in the corners, in pixels


def framed_photograph(width, height):
    """Return a gray photograph with a square of another color in each corner."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    for (row, column), color in CORNERS.items():
        rows = slice(0, CORNER) if row == 0 else slice(height - CORNER, height)
        columns = slice(0, CORNER) if column == 0 else slice(width - CORNER, width)
        pixels[rows, columns] = color
    return encoded(Image.fromarray(pixels), "JPEG", quality=95)


def framed_sample(index, width=96, height=60):
    return disc_sample(index, 4)._replace(jpeg=framed_photograph(width, height))


@pytest.mark.parametrize(
    "points", [np.array([[1.2, 0.5, 1]]), np.array([[np.nan, 0.5, 1]]), np.array([0.5, 0.5, 1]), np.array([[0.5]])]
)
def test_sample_with_invalid_gaze_points_is_unreadable(points):
    members = {"__key__": "0", **framed_sample(0).members(), "gaze.npy": encode_points(points)}
    with pytest.raises(UnreadableSample, match=r"gaze points \[.*expected \[n, 3\], with x and y in \[0, 1\]"):
        decode_piece([SampleRequest(members, (0,))], ViewSpec(32, VIEWS, None))


@pytest.mark.parametrize(("width", "height"), [(96, 60), (60, 96), (64, 64)])
def test_clean_image_is_the_whole_frame_resized_to_a_square(width, height):
    sample = framed_sample(0, width, height)
    photograph = Image.open(io.BytesIO(sample.jpeg))
    expected = np.asarray(photograph.resize((32, 32), Image.Resampling.BICUBIC))
    for seed in range(3):
        members = {"__key__": "0", **sample.members()}
        piece = decode_piece([SampleRequest(members, (seed,))], ViewSpec(32, VIEWS, None))
        clean = piece.clean[0].permute(1, 2, 0).numpy()
        assert np.abs(clean.astype(int) - expected.astype(int)).max() <= 3  # decoders differ by rounding
        for corner, color in CORNERS.items():
            assert np.abs(clean[corner].astype(int) - color).max() < 25


def test_clean_images_of_batches_show_all_corners_and_views_do_not(tmp_path):
    folder = write_dataset(tmp_path, [[framed_sample(index) for index in range(12)]], 4)
    data = open_dataset(str(folder))
    stream = make_stream(data, Sampler(data.sizes, 12, 0), ViewSpec(32, VIEWS, None))
    [batch] = list(stream.batches(0, 1))

    def count_with_all_corners(images):
        """Count the images, uint8 [n, 3, 32, 32], that have the colors of the frame's corners in their own."""
        errors = [
            (images[:, :, row, column].int() - torch.tensor(color)).abs().amax(1)
            for (row, column), color in CORNERS.items()
        ]
        return int((torch.stack(errors).amax(0) < 25).sum())

    assert count_with_all_corners(batch.clean) == 12
    assert count_with_all_corners(batch.views.flatten(0, 1)) < 6
