from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.fixations import FixatedImage, open_fixations
from labeler.teacher.evaluation.predict import predict_map, score_images
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import ForeignTeacher
from tests.support.seeing_teachers import HEIGHT, WIDTH, FaultyInTheDark, data_set, looks
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[FixatedImage]:
    return open_fixations(data_set(tmp_path, looks())).images


def test_images_are_scored_in_their_order_and_read_when_their_turn_comes(images, monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    asked: list[str] = []

    def listed():
        for image in images * 10:
            asked.append(image.name)
            yield image

    found = []
    for scored in score_images(ForeignTeacher(GradientTeacher()), listed(), images, CPU, 0):
        found.append(scored.image)
        assert len(asked) <= len(found) + 4
    assert found == asked == [image.name for image in images] * 10


@pytest.mark.parametrize(
    ("raises", "message"),
    [(False, "the teacher's map of it holds NaN"), (True, "the teacher fails on it: RuntimeError: too dark for me")],
)
def test_a_map_that_cannot_be_scored_is_a_user_error_that_names_the_image(raises, message, images) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(images[2].path)
    with pytest.raises(UserError, match=f"photo02.jpg: {message}"):
        list(score_images(ForeignTeacher(FaultyInTheDark(raises)), images, images, CPU, 0))


def test_an_image_that_cannot_be_read_is_a_user_error_that_names_it(images) -> None:
    images[1].path.write_bytes(images[1].path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"photo01\.jpg: the image cannot be read: truncated"):
        list(score_images(ForeignTeacher(GradientTeacher()), images, images, CPU, 0))


def test_values_below_0_count_as_0_as_in_stored_maps(images) -> None:
    class Signed(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.mean(1) - 0.5

    predicted = predict_map(ForeignTeacher(Signed()), images[0], CPU)
    brightness = resize_to_input(images[0].pixels()).float().mean(0) / 255
    assert predicted.amin() == 0
    assert predicted.amax() == 1
    assert torch.equal(predicted > 0, brightness > 0.5)
