import io
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common import page
from common.errors import UserError
from common.orientation import to_upright_image

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;.jpg"


class Reading(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in page.VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def photograph(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@given(st.text(st.characters(exclude_characters="\r\0")))
def test_any_text_comes_out_as_that_text_and_nothing_else(text):
    reading = Reading(page.element("p", text, title=text))
    shown = text.encode("utf-8", "replace").decode()
    assert reading.tags == ["p"]
    assert reading.attributes == [("title", shown)]
    assert "".join(reading.texts) == shown


def test_every_part_of_a_page_escapes_hostile_text():
    parts = [
        page.section(HOSTILE, page.paragraph(HOSTILE)),
        page.tiles({HOSTILE: HOSTILE}),
        page.table([HOSTILE], [[HOSTILE], [page.breakable(f"a/{HOSTILE}")]]),
        page.notes([HOSTILE]),
        page.grid([page.figure(page.picture(encoded(photograph(), "PNG"), HOSTILE), HOSTILE, HOSTILE)]),
        page.histogram(HOSTILE, [1, 2], np.arange(4)),
    ]
    reading = Reading(page.document(HOSTILE, HOSTILE, *parts))
    assert "script" not in reading.tags
    assert reading.tags.count("img") == 1
    assert not [name for name, _ in reading.attributes if name.startswith("on")]
    assert reading.texts.count(HOSTILE) == 13
    assert not reading.open


def test_markup_in_an_attribute_is_text():
    reading = Reading(page.element("p", title=page.Html('"><script>')))
    assert reading.tags == ["p"]


def test_the_document_fetches_nothing():
    document = page.document("title", "subtitle", page.picture(encoded(photograph(), "JPEG"), "a picture"))
    assert "http://" not in document
    assert "https://" not in document
    assert "url(" not in document
    policies = [value for name, value in Reading(document).attributes if name == "content"]
    assert any(policy.startswith("default-src 'none'; img-src data:;") for policy in policies)
    sources = [value for name, value in Reading(document).attributes if name in ("src", "href")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_a_page_may_not_hold_other_files_than_pictures():
    with pytest.raises(ValueError, match="expected the bytes of a JPEG or PNG, found b'<svg"):
        page.picture(b"<svg onload=alert(1)>", "no picture")


def test_numbers_in_tables_and_tiles_have_thousands_separators():
    texts = Reading(page.table(["images"], [[1281167]]) + page.tiles({"images": 14_000_000})).texts
    assert texts == ["images", "1,281,167", "images", "14,000,000"]


def test_a_picture_lies_under_its_map_and_its_points():
    attention = np.zeros((8, 8), np.uint8)
    points = np.array([[0.25, 0.5, 1.0], [0.5, 0.5, 0.3]])
    markup = page.attention_picture(photograph(640, 480), attention, points, (640, 480))
    assert markup.index('class="photograph"') < markup.index('class="heat"') < markup.index('class="point"')
    attributes = Reading(markup).attributes
    assert ("viewbox", "0 0 320 240") in attributes
    assert [value for name, value in attributes if name in ("cx", "cy")] == ["80.0", "120.0", "160.0", "120.0"]
    first, second = (float(value) for name, value in attributes if name == "r")
    assert (second / first) ** 2 == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_map_and_points_turn_together(orientation):
    """The map's bright pixel, the picture's and the point stay on each other, whichever way they are turned."""
    stored = np.zeros((30, 50), np.uint8)
    stored[4:9, 33:38] = 255
    point = np.array([[35.5 / 50, 6.5 / 30, 1.0]])
    image = Image.fromarray(stored).convert("RGB")
    markup = page.attention_picture(image, stored, point, (50, 30), orientation)
    attributes = Reading(markup).attributes
    width, height = (int(side) for side in dict(attributes)["viewbox"].split()[2:])
    x, y = (float(value) for name, value in attributes if name in ("cx", "cy"))
    turned = np.asarray(to_upright_image(image, orientation))[..., 0]
    assert turned[int(y / height * turned.shape[0]), int(x / width * turned.shape[1])] == 255
    assert (width > height) == (turned.shape[1] > turned.shape[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_turns_as_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    photograph().save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(to_upright_image(image, orientation)), expected)


def test_a_thumbnail_forgets_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photograph(900, 600).save(buffer, "JPEG", exif=exif)
    small = Image.open(io.BytesIO(page.thumbnail(Image.open(buffer))))
    assert small.size == (320, 213)
    assert dict(small.getexif()) == {}


def test_pictures_without_points_need_no_switch_for_them():
    ids = [
        [value for name, value in Reading(page.layer_switches(points)).attributes if name == "id"] for points in (1, 0)
    ]
    assert ids == [["show-heat", "show-points"], ["show-heat"]]


def test_heat_is_clear_where_nobody_looks_and_opaque_on_demand():
    grey = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(8, axis=1).repeat(16, axis=0))
    overlay = np.asarray(Image.open(io.BytesIO(page.color_map(grey, opaque=False))).convert("RGBA"))
    alone = np.asarray(Image.open(io.BytesIO(page.color_map(grey, opaque=True))).convert("RGBA"))
    assert overlay[50, 0, 3] == 0
    assert overlay[50, -1].tolist() == [252, 255, 164, round(255 * page.HEAT_OPACITY)]
    assert (alone[..., 3] == 255).all()


def test_heat_colours_grow_brighter_throughout():
    luminance = page.heat_colors() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) >= 0).all()


def test_bars_are_as_tall_as_their_values():
    attributes = Reading(page.bar_chart(["a", "b", "c"], [10, 5, 0], "a chart")).attributes
    heights = [float(value) for name, value in attributes if name == "height"]
    assert heights[1] == pytest.approx(heights[0] / 2)
    assert heights[2] == 0


def test_a_chart_of_nothing_is_still_a_chart():
    assert "svg" in Reading(page.bar_chart([], [], "empty")).tags
    assert "svg" in Reading(page.histogram("empty", [], np.arange(3))).tags


def test_write_page_makes_the_folder_and_leaves_no_half_page(tmp_path):
    path = tmp_path / "new" / "page.html"
    page.write_page(path, page.document("Ünïcode \ud800", "subtitle"))
    assert "Ünïcode ?" in path.read_text("utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        page.write_page(tmp_path / "file" / "page.html", page.document("a", "b"))
    with pytest.raises(UserError, match="cannot write"):
        page.write_page(tmp_path, page.document("a", "b"))
    assert not (tmp_path.parent / f"{tmp_path.name}.partial").exists()
