from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.fixations import FixatedImage, open_fixations
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.evaluation.scoring import score_images
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import CustomTeacher
from tests.support.data.fixation_data import HEIGHT, WIDTH, random_fixations, write_fixation_data
from tests.support.simple_teachers import FaultyInTheDark
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[FixatedImage]:
    return open_fixations(write_fixation_data(tmp_path, random_fixations())).images


def test_images_are_scored_in_order_and_read_only_shortly_before(images, monkeypatch) -> None:
    monkeypatch.setattr("labeler.teacher.evaluation.scoring.available_cores", lambda: 2)
    requested: list[str] = []

    def record_requests():
        for image in images * 10:
            requested.append(image.name)
            yield image

    scored = []
    for image_scores in score_images(CustomTeacher(GradientTeacher()), record_requests(), images, CPU, 0):
        scored.append(image_scores.image)
        assert len(requested) <= len(scored) + 4
    assert scored == requested == [image.name for image in images] * 10


@pytest.mark.parametrize(
    ("raises", "message"),
    [
        (False, "the teacher's map of this image holds NaN"),
        (True, "the teacher fails on this image: RuntimeError: too dark for me"),
    ],
)
def test_map_that_cannot_be_scored_is_a_user_error_that_names_the_image(raises, message, images) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(images[2].path)
    with pytest.raises(UserError, match=f"photo02.jpg: {message}"):
        list(score_images(CustomTeacher(FaultyInTheDark(raises)), images, images, CPU, 0))


def test_unreadable_image_is_a_user_error_that_names_it(images) -> None:
    images[1].path.write_bytes(images[1].path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"photo01\.jpg: the image cannot be read: truncated"):
        list(score_images(CustomTeacher(GradientTeacher()), images, images, CPU, 0))


def test_negative_values_become_0_as_in_stored_maps(images) -> None:
    class SignedBrightness(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.mean(1) - 0.5

    predicted = predict_map(CustomTeacher(SignedBrightness()), images[0], CPU)
    brightness = resize_to_input(images[0].pixels()).float().mean(0) / 255
    assert predicted.amin() == 0
    assert predicted.amax() == 1
    assert torch.equal(predicted > 0, brightness > 0.5)
