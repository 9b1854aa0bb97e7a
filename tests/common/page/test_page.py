import io
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common import page
from common.errors import UserError
from common.images.orientation import to_upright_image
from common.page.charts import place_ticks

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;.jpg"


class ParsedMarkup(HTMLParser):
    """The tags, attributes and texts that a browser would find in markup."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open_tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in page.VOID_TAGS:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def make_photograph(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


@given(st.text(st.characters(exclude_characters="\r\0")))
def test_any_text_is_displayed_unchanged(text):
    parsed = ParsedMarkup(page.element("p", text, title=text))
    expected = text.encode("utf-8", "replace").decode()
    assert parsed.tags == ["p"]
    assert parsed.attributes == [("title", expected)]
    assert "".join(parsed.texts) == expected


def test_every_part_of_a_page_escapes_hostile_text():
    parts = [
        page.section(HOSTILE, page.paragraph(HOSTILE)),
        page.tiles({HOSTILE: HOSTILE}),
        page.table([HOSTILE], [[HOSTILE], [page.breakable(f"a/{HOSTILE}")]]),
        page.notes([HOSTILE]),
        page.grid([page.figure(page.picture(encode(make_photograph(), "PNG"), HOSTILE), HOSTILE, HOSTILE)]),
        page.histogram(HOSTILE, [1, 2], np.arange(4)),
        page.line_chart({HOSTILE: [(1, 2.0)]}, HOSTILE, HOSTILE),
    ]
    parsed = ParsedMarkup(page.document(HOSTILE, HOSTILE, *parts))
    assert "script" not in parsed.tags
    assert parsed.tags.count("img") == 1
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert parsed.texts.count(HOSTILE) == 14
    assert f"{HOSTILE} " in parsed.texts, "the legend of the line chart"
    assert not parsed.open_tags


def test_markup_in_an_attribute_is_escaped():
    parsed = ParsedMarkup(page.element("p", title=page.Html('"><script>')))
    assert parsed.tags == ["p"]


def test_document_loads_nothing():
    document = page.document("title", "subtitle", page.picture(encode(make_photograph(), "JPEG"), "a picture"))
    assert "http://" not in document
    assert "https://" not in document
    assert "url(" not in document
    policies = [value for name, value in ParsedMarkup(document).attributes if name == "content"]
    assert any(policy.startswith("default-src 'none'; img-src data:;") for policy in policies)
    sources = [value for name, value in ParsedMarkup(document).attributes if name in ("src", "href")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_embedding_anything_but_jpeg_or_png_raises():
    with pytest.raises(ValueError, match="expected the bytes of a JPEG or PNG, found b'<svg"):
        page.picture(b"<svg onload=alert(1)>", "no picture")


def test_numbers_in_tables_and_tiles_have_thousands_separators():
    texts = ParsedMarkup(page.table(["images"], [[1281167]]) + page.tiles({"images": 14_000_000})).texts
    assert texts == ["images", "1,281,167", "images", "14,000,000"]


def test_attention_picture_draws_map_and_points_over_the_photograph():
    attention = np.zeros((8, 8), np.uint8)
    points = np.array([[0.25, 0.5, 1.0], [0.5, 0.5, 0.3]])
    markup = page.attention_picture(make_photograph(640, 480), attention, points, (640, 480))
    assert markup.index('class="photograph"') < markup.index('class="heat"') < markup.index('class="point"')
    attributes = ParsedMarkup(markup).attributes
    assert ("viewbox", "0 0 320 240") in attributes
    assert [value for name, value in attributes if name in ("cx", "cy")] == ["80.0", "120.0", "160.0", "120.0"]
    first, second = (float(value) for name, value in attributes if name == "r")
    assert (second / first) ** 2 == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_map_and_points_are_turned_together(orientation):
    """In every orientation, the point stays on the bright rectangle of the photograph."""
    stored = np.zeros((30, 50), np.uint8)
    stored[4:9, 33:38] = 255
    point = np.array([[35.5 / 50, 6.5 / 30, 1.0]])
    image = Image.fromarray(stored).convert("RGB")
    markup = page.attention_picture(image, stored, point, (50, 30), orientation)
    attributes = ParsedMarkup(markup).attributes
    width, height = (int(side) for side in dict(attributes)["viewbox"].split()[2:])
    x, y = (float(value) for name, value in attributes if name in ("cx", "cy"))
    turned = np.asarray(to_upright_image(image, orientation))[..., 0]
    assert turned[int(y / height * turned.shape[0]), int(x / width * turned.shape[1])] == 255
    assert (width > height) == (turned.shape[1] > turned.shape[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_to_upright_image_equals_pillows_exif_transpose(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    make_photograph().save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(to_upright_image(image, orientation)), expected)


def test_thumbnail_has_no_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    make_photograph(900, 600).save(buffer, "JPEG", exif=exif)
    small = Image.open(io.BytesIO(page.thumbnail(Image.open(buffer))))
    assert small.size == (320, 213)
    assert dict(small.getexif()) == {}


def test_switch_for_points_is_optional():
    ids = [
        [value for name, value in ParsedMarkup(page.layer_switches(points)).attributes if name == "id"]
        for points in (1, 0)
    ]
    assert ids == [["show-heat", "show-points"], ["show-heat"]]


def test_color_map_is_transparent_at_zero_unless_opaque():
    gray = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(8, axis=1).repeat(16, axis=0))
    overlay = np.asarray(Image.open(io.BytesIO(page.color_map(gray, opaque=False))).convert("RGBA"))
    alone = np.asarray(Image.open(io.BytesIO(page.color_map(gray, opaque=True))).convert("RGBA"))
    assert overlay[50, 0, 3] == 0
    assert overlay[50, -1].tolist() == [252, 255, 164, round(255 * page.HEAT_OPACITY)]
    assert (alone[..., 3] == 255).all()


def test_heat_colors_increase_in_luminance():
    luminance = page.heat_colors() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) >= 0).all()


def test_bar_heights_are_proportional_to_values():
    attributes = ParsedMarkup(page.bar_chart(["a", "b", "c"], [10, 5, 0], "a chart")).attributes
    heights = [float(value) for name, value in attributes if name == "height"]
    assert heights[1] == pytest.approx(heights[0] / 2)
    assert heights[2] == 0


def test_charts_without_values_are_drawn():
    assert "svg" in ParsedMarkup(page.bar_chart([], [], "empty")).tags
    assert "svg" in ParsedMarkup(page.histogram("empty", [], np.arange(3))).tags


def circles_and_lines(markup):
    """Return the centers of the markers and, for each line, its points."""
    attributes = ParsedMarkup(markup).attributes
    numbers = [float(value) for name, value in attributes if name in ("cx", "cy")]
    lines = [
        [tuple(map(float, pair.split(","))) for pair in value.split()] for name, value in attributes if name == "points"
    ]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), lines


def test_line_chart_places_points_between_its_ticks():
    markup = page.line_chart(
        {"loss": [(1, 0.0), (2, 5.0), (3, 10.0)], "other": [(1, 10.0), (3, 0.0)]}, "a chart", "epoch"
    )
    centers, [loss, other] = circles_and_lines(markup)
    assert centers == [*loss, *other]
    (left, bottom), (middle, half), (right, top) = loss
    assert left < middle < right
    assert bottom > half > top
    assert (middle, half) == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=0.1)
    assert other == [(left, top), (right, bottom)]
    texts = ParsedMarkup(markup).texts
    assert {"loss, epoch 2: 5", "epoch", "0", "10", "1", "3"} <= set(texts)
    legend = [(name, texts[index + 1]) for index, name in enumerate(texts) if name in ("loss ", "other ")]
    assert legend == [("loss ", "10"), ("other ", "0")]
    classes = [
        value for name, value in ParsedMarkup(markup).attributes if name == "class" and value.startswith("series")
    ]
    assert classes == ["series-1", "series-2"] * 2, "of the legend and the lines"


@pytest.mark.parametrize("value", [5.3, 0.0, -2.0, 1e-9])
def test_single_point_is_a_marker_within_the_chart(value):
    [(x, y)], _ = circles_and_lines(page.line_chart({"loss": [(3, value)], "empty": []}, "a chart", "epoch"))
    assert 0 < x < 420
    assert 0 < y < 220


def test_long_line_has_all_points_and_few_markers():
    points = [(epoch, 1 / epoch) for epoch in range(1, 1001)]
    centers, [line] = circles_and_lines(page.line_chart({"loss": points}, "a chart", "epoch"))
    assert len(line) == 1000
    assert len(centers) <= 51
    assert centers[-1] == line[-1]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_ticks_are_few_and_cover_the_values(low, span, whole):
    ticks = place_ticks(low, low + span, 6, whole)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low + 1e-9 * abs(low)
    assert ticks[-1] >= low + span - 1e-9 * abs(low + span)
    assert not whole or all(tick == round(tick) for tick in ticks)


def test_document_is_loaded_again_only_if_asked_to():
    def refreshes(**options):
        return ("http-equiv", "refresh") in ParsedMarkup(page.document("title", "subtitle", **options)).attributes

    assert refreshes(refresh=60)
    assert not refreshes()


def test_write_page_creates_the_folder_and_leaves_no_partial_file(tmp_path):
    path = tmp_path / "new" / "page.html"
    page.write_page(path, page.document("Ünïcode \ud800", "subtitle"))
    assert "Ünïcode ?" in path.read_text("utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_write_page_raises_user_error_if_the_path_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*; expected the path of a writable file"):
        page.write_page(tmp_path / "file" / "page.html", page.document("a", "b"))
    with pytest.raises(UserError, match=r"cannot write .*; expected the path of a writable file"):
        page.write_page(tmp_path, page.document("a", "b"))
    assert not (tmp_path.parent / f"{tmp_path.name}.partial").exists()
