"""Rendered scenes for the demo: one solid object on a textured background.

Each class has its own outline and hue, so that a network can learn to distinguish some classes within minutes.
Everything else (colors, position, lighting, texture) is random.
"""

import colorsys

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 160, 120
SUPERSAMPLING = 4
# Range of the object's size: the diameter of the disc of equal area, as a fraction of the image height.
DIAMETER_RANGE = (0.4, 0.55)
HUE_SPREAD = 0.03  # largest deviation from the hue of the class; hues range from 0 to 1
MIN_CONTRAST = 0.65  # between object and background: Euclidean distance in RGB, channels from 0 to 1
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)


def render_scene(class_index: int, image_index: int) -> Image.Image:
    """Render an RGB image, 160 pixels wide and 120 high, with an object of class `CLASS_NAMES[class_index]`.

    The result depends on the two indices only.
    """
    rng = RandomState([class_index, image_index])
    background_color, object_color = _contrasting_colors(class_index / len(CLASS_NAMES), rng)
    background = _add_distractors(_render_background(background_color, rng), rng)
    radius = rng.uniform(*DIAMETER_RANGE) * HEIGHT / 2
    mask = _rasterize(_transform_outline(OUTLINES[CLASS_NAMES[class_index]], radius, rng))
    return Image.fromarray(np.uint8(255 * np.clip(_compose(background, object_color, mask, radius, rng), 0, 1)))


def _contrasting_colors(hue: float, rng: RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Draw a muted background color and a vivid object color near `hue`; each is RGB, float [3] in [0, 1]."""
    while True:
        muted = np.array(colorsys.hsv_to_rgb(rng.rand(), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.85)))
        object_hue = (hue + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
        vivid = np.array(colorsys.hsv_to_rgb(object_hue, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0)))
        if np.linalg.norm(muted - vivid) > MIN_CONTRAST:
            return muted, vivid


def _render_background(color: np.ndarray, rng: RandomState) -> np.ndarray:
    """Render a color gradient with clouds, float [H, W, 3]; a third of the scenes have stripes, a third a horizon."""
    angle = rng.uniform(0, 2 * np.pi)
    along = (COLUMNS / WIDTH - 0.5) * np.cos(angle) + (ROWS / HEIGHT - 0.5) * np.sin(angle)
    light = 0.25 * along + 0.07 * _clouds(4, rng) + 0.025 * _clouds(12, rng) + 0.012 * rng.randn(HEIGHT, WIDTH)
    kind = rng.randint(3)
    if kind == 1:
        light += 0.04 * np.sin(along * rng.uniform(30, 70) + rng.uniform(0, 2 * np.pi))
    tint = rng.uniform(-0.06, 0.06, 3)
    background = color + light[..., None] + tint * along[..., None]
    if kind == 2:
        horizon = rng.uniform(0.3, 0.7) * HEIGHT + rng.uniform(-0.1, 0.1) * (COLUMNS - WIDTH / 2)
        below = np.clip(ROWS - horizon, 0, 1)[..., None]
        background += below * rng.uniform(-0.12, -0.04, 3)
    return background


def _clouds(cells: int, rng: RandomState) -> np.ndarray:
    """Return smooth noise, float [H, W], of variance about 1 with about `cells` bumps across the width."""
    coarse = Image.fromarray(rng.randn(cells * 3 // 4 + 1, cells + 1).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)


def _add_distractors(background: np.ndarray, rng: RandomState) -> np.ndarray:
    """Add two to five faint blobs, which an attention map should ignore."""
    for _ in range(rng.randint(2, 6)):
        row, column = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
        distance = np.hypot(ROWS - row, COLUMNS - column) - rng.uniform(3, 8)
        background = background + np.clip(0.5 - distance / 2, 0, 1)[..., None] * rng.uniform(-0.09, 0.09, 3)
    return background


def _transform_outline(outline: np.ndarray, radius: float, rng: RandomState) -> np.ndarray:
    """Scale, rotate and slightly tilt an outline, and move it to a random position inside the frame; [n, 2] pixels."""
    turn, lean = rng.uniform(0, 2 * np.pi, 2)
    tilt = _rotation(lean) @ np.diag([1.0, rng.uniform(0.85, 1.0)]) @ _rotation(-lean)
    polygon = outline @ (tilt @ _rotation(turn)).T * radius
    room = np.array([WIDTH, HEIGHT]) - 4 - np.ptp(polygon, axis=0)  # a margin of 2 pixels on every side
    return polygon - polygon.min(axis=0) + 2 + rng.uniform(0, 1, 2) * room


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _rasterize(polygon: np.ndarray) -> np.ndarray:
    """Return the fraction of each pixel that the polygon [n, 2] covers, float [H, W]."""
    canvas = Image.new("L", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon((polygon * SUPERSAMPLING).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING)) / 255.0


def _compose(
    background: np.ndarray, color: np.ndarray, mask: np.ndarray, radius: float, rng: RandomState
) -> np.ndarray:
    """Draw a shaded, textured object in the area of `mask`, and its shadow, on the background; float [H, W, 3]."""
    azimuth = rng.uniform(0, 2 * np.pi)
    across, down = np.cos(azimuth), np.sin(azimuth)
    shadow = _blur(mask, radius / 6, shift=(-0.25 * radius * down, -0.25 * radius * across))
    grain = 1 + 0.05 * _clouds(32, rng)
    # Shading: the blurred mask serves as the height of a rounded surface, lit from direction `azimuth`.
    gradient_down, gradient_across = np.gradient(_blur(mask, radius / 4) * radius * 0.9)
    normal_length = np.sqrt(gradient_down**2 + gradient_across**2 + 1)
    facing = (0.6 * (-gradient_across * across - gradient_down * down) + 0.8) / normal_length
    body = color * ((0.35 + 0.75 * np.clip(facing, 0, 1)) * grain)[..., None]
    body += 0.6 * (np.clip(facing, 0, 1) ** 24)[..., None] * rng.uniform(0.3, 1.0)  # specular highlight
    shadowed = background * (1 - 0.45 * shadow[..., None])
    return shadowed + mask[..., None] * (body - shadowed)


def _blur(image: np.ndarray, sigma: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Blur an image [H, W] with a Gaussian and move it by `shift` pixels (down, across); outside of it all is 0."""
    down = _gaussian(ROWS[:, :1] - ROWS[:, 0] - shift[0], sigma)
    across = _gaussian(COLUMNS[0] - COLUMNS[:1].T - shift[1], sigma)
    return down @ image @ across


def _gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def _arc(radius: float, start: float, end: float, points: int = 72) -> np.ndarray:
    """Return points on a circle around the origin, from angle `start` to `end`; [points, 2]."""
    return _polar_to_cartesian(np.full(points, radius), np.linspace(start, end, points))


def _polar_to_cartesian(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return the points [n, 2] with these polar coordinates."""
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _radial_polygon(radii: list[float]) -> np.ndarray:
    """Return a polygon whose corners lie at equal angles and at these distances from the center."""
    return _polar_to_cartesian(np.array(radii), np.arange(len(radii)) * 2 * np.pi / len(radii))


def _crescent() -> np.ndarray:
    """Return the unit circle minus a smaller circle to its right: two arcs that meet at the tips."""
    tip = 0.27 * np.pi
    inner_radius = 0.8
    inner_tip = np.pi - np.arcsin(np.sin(tip) / inner_radius)
    outer = _arc(1.0, tip, 2 * np.pi - tip)
    inner = _arc(inner_radius, 2 * np.pi - inner_tip, inner_tip)
    return np.concatenate([outer, inner + outer[-1] - inner[0]])


def _heart() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120)
    wave = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return np.stack([16 * np.sin(angle) ** 3, -wave], axis=1)


def _flower() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 240)
    return _polar_to_cartesian(0.35 + 0.65 * np.abs(np.cos(2.5 * angle)) ** 0.7, angle)


def _normalize_outline(outline: np.ndarray) -> np.ndarray:
    """Center an outline [n, 2] and scale it to the area of the unit disc, so that all classes are equally large."""
    centered = outline - (outline.min(axis=0) + outline.max(axis=0)) / 2
    following = np.roll(centered, -1, axis=0)
    area = abs(centered[:, 0] @ following[:, 1] - centered[:, 1] @ following[:, 0]) / 2
    return centered * np.sqrt(np.pi / area)


_CIRCLE = _arc(1.0, 0, 2 * np.pi)
OUTLINES: dict[str, np.ndarray] = {
    name: _normalize_outline(np.asarray(outline, np.float64))
    for name, outline in {
        "arrow": [(-5, -2), (0, -2), (0, -5), (6, 0), (0, 5), (0, 2), (-5, 2)],
        "ball": _CIRCLE,
        "box": _radial_polygon([1.0] * 4),
        "crescent": _crescent(),
        "cross": [
            *[(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)],
            *[(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)],
        ],
        "flower": _flower(),
        "heart": _heart(),
        "ring": np.concatenate([_CIRCLE, 0.5 * _CIRCLE[::-1]]),
        "star": _radial_polygon([1.0, 0.42] * 5),
        "triangle": _radial_polygon([1.0] * 3),
    }.items()
}
CLASS_NAMES = tuple(OUTLINES)
