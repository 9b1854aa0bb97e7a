"""Attention maps and gaze points drawn over photographs, as inline SVG."""

import io
import math

import numpy as np
from PIL import Image

from common.images.orientation import to_upright_image, to_upright_point
from common.page.html import INFERNO, Html, data_uri, element

LONGEST_SIDE = 320  # pixels of an embedded photograph
SHORTEST_SIDE = 64  # pixels; a narrower picture is stretched, so that its gaze points do not cover each other
JPEG_QUALITY = 80
HEAT_SIDE = 112  # pixels of an embedded map; the browser scales it to the photograph
HEAT_OPACITY = 0.85  # at the map's maximum
HEAT_GAMMA = 0.8  # opacity is proportional to value ** HEAT_GAMMA: a lower exponent shows more of weak attention
POINT_RADIUS = 0.034  # of a point of strength 1, relative to the longest side
MIN_POINT_STRENGTH = 0.2  # weaker points are drawn as large as this, so that their number stays legible


def attention_picture(
    image: Image.Image | None, attention: np.ndarray, points: np.ndarray, size: tuple[int, int], orientation: int = 1
) -> Html:
    """Draw a photograph, its attention map and its numbered gaze points on top of each other, turned upright.

    Image, map and points are given in the frame of the stored pixels. The layers have the classes `photograph`, `heat`
    and `point`. A picture that would be narrower than `SHORTEST_SIDE` is stretched to it.

    Args:
        image: the photograph; if None, the map is drawn alone and opaque.
        attention: the map, uint8 [H, W]; it covers the whole frame at any resolution.
        points: gaze points [n, 3]: x, y and strength, each in [0, 1]; numbered from 1 in this order.
        size: width and height of the stored pixels.
        orientation: EXIF orientation, 1 to 8.
    """
    width, height = _fit_sides(size if orientation < 5 else size[::-1])
    upright_map = to_upright_image(Image.fromarray(attention), orientation)
    layers = [_image_layer(color_map(upright_map, opaque=image is None), width, height, "heat")]
    if image is not None:
        photograph = thumbnail(to_upright_image(image, orientation))
        layers.insert(0, _image_layer(photograph, width, height, "photograph"))
    for number, (x, y, strength) in enumerate(points.tolist(), start=1):
        upright_x, upright_y = to_upright_point(x, y, orientation)
        layers.append(_point_marker(number, upright_x * width, upright_y * height, strength))
    attributes = {"role": "img", "aria_label": f"attention map with {len(points)} gaze points", "class_": "picture"}
    return element("svg", *layers, viewBox=f"0 0 {width} {height}", **attributes)


def layer_switches(points: bool = True, lowest: str = "none") -> Html:
    """Return check boxes that show or hide a layer of all `attention_picture`s, and the color scale of the maps.

    `points` adds the check box for gaze points; `lowest` names the lower end of the color scale.
    """
    layers = {"show-heat": "attention maps"} | ({"show-points": "gaze points"} if points else {})
    box = {"type": "checkbox", "checked": ""}
    boxes = [element("label", element("input", **box, id=name), f" {label}") for name, label in layers.items()]
    scale = element("span", f"attention: {lowest}", element("span", class_="scale"), "the map's maximum")
    return element("div", *boxes, scale, class_="switches")


def open_picture(jpeg: bytes) -> Image.Image:
    """Open a JPEG to be shown on a page: a large one is decoded faster, at a lower resolution."""
    image = Image.open(io.BytesIO(jpeg))
    image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
    return image


def thumbnail(image: Image.Image) -> bytes:
    """Encode an image as JPEG, shrunk so that its longest side has at most `LONGEST_SIDE` pixels.

    A side is not shrunk below `SHORTEST_SIDE`, even if this changes the aspect ratio.
    """
    width, height = map(min, image.size, _fit_sides(image.size))
    small, buffer = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def normalize_map(attention: np.ndarray) -> np.ndarray:
    """Scale a non-negative map [H, W] to uint8 so that its maximum is 255. A map of zeros stays zero."""
    return np.asarray((attention / max(float(attention.max()), 1e-12) * 255).clip(0, 255).round(), np.uint8)


def color_map(gray: Image.Image, opaque: bool) -> bytes:
    """Encode an 8-bit gray map as PNG in the inferno colors. Unless `opaque`, lower values are more transparent."""
    small = gray.resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)
    small.putpalette(heat_colors().tobytes())
    opacity = np.full(256, 255.0) if opaque else np.linspace(0, 1, 256) ** HEAT_GAMMA * 255 * HEAT_OPACITY
    buffer = io.BytesIO()
    small.save(buffer, "PNG", transparency=opacity.round().astype(np.uint8).tobytes(), optimize=True)
    return buffer.getvalue()


def heat_colors() -> np.ndarray:
    """Return the perceptually uniform color map "inferno" as uint8 [256, 3], interpolated from `INFERNO`."""
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in INFERNO])
    positions = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(positions, range(len(anchors)), channel) for channel in anchors.T]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _fit_sides(size: tuple[int, int]) -> tuple[int, int]:
    """Scale two sides so that the longest has `LONGEST_SIDE` pixels, and each at least `SHORTEST_SIDE`."""
    scale = LONGEST_SIDE / max(size)
    width, height = (max(SHORTEST_SIDE, round(side * scale)) for side in size)
    return width, height


def _image_layer(image: bytes, width: int, height: int, name: str) -> Html:
    return element("image", href=data_uri(image), width=width, height=height, preserveAspectRatio="none", class_=name)


def _point_marker(number: int, x: float, y: float, strength: float) -> Html:
    """Draw a numbered circle whose area is proportional to the point's strength."""
    radius = POINT_RADIUS * LONGEST_SIDE * math.sqrt(min(max(strength, MIN_POINT_STRENGTH), 1.0))
    tooltip = element("title", f"gaze point {number}, strength {strength:.2f}")
    circle = element("circle", cx=round(x, 1), cy=round(y, 1), r=round(radius, 1), stroke_width=1.5)
    label = element("text", number, x=round(x, 1), y=round(y, 1), font_size=round(radius * 1.1, 1))
    return element("g", tooltip, circle, label, class_="point")
