"""Tests of the page of a comparison."""

import re
from pathlib import Path

import pytest

from common.errors import UserError
from labeler.compare import main
from labeler.comparison.compare import compare_labelings
from labeler.comparison.page import draw_pair
from tests.common.page.test_page import ParsedMarkup
from tests.labeler.comparison.conftest import Pair


def test_page_shows_the_most_different_images(labelings: Pair, tmp_path: Path) -> None:
    path = tmp_path / "folder/page.html"
    assert main([str(labelings.b), str(labelings.a), "--workers", "1", "--to", str(path)]) == 0
    content = path.read_text()
    markup = ParsedMarkup(content)
    assert not markup.open_tags
    assert not re.search("https?://", content)
    report = compare_labelings(str(labelings.b), str(labelings.a), workers=1).report
    captions = [text for text in markup.texts if re.match(r"CC [\d.-]+ · KL", text)]
    shown = [float(caption.split()[1]) for caption in captions]
    assert shown == pytest.approx([image["cc"] for image in report["most_different"]], abs=6e-4)
    assert len(shown) == report["compared"]
    assert content.count('class="photograph"') == 2 * report["compared"]  # only one of the data sets has the images
    assert all(f"<b>{name}" in content or name in markup.texts for name in ("class0/", "images in both", "only in B"))


def test_pair_is_drawn_over_the_image_of_either_side_or_without_one(labelings: Pair) -> None:
    [image, *_] = compare_labelings(str(labelings.a), str(labelings.b), workers=1).most_different
    assert (image.a.jpeg is None, image.b.jpeg is None) == (False, True)
    assert draw_pair(image).count('class="photograph"') == 2
    without = image._replace(a=image.a._replace(jpeg=None))
    assert draw_pair(without).count('class="photograph"') == 0
    assert draw_pair(without).count('class="heat"') == 2
    points = len(image.a.gaze) + len(image.b.gaze)
    assert draw_pair(image).count('class="point"') == points > 0


def test_a_page_that_cannot_be_written_is_a_user_error(labelings: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        main([str(labelings.a), str(labelings.b), "--workers", "1", "--to", str(tmp_path / "file/page.html")])
