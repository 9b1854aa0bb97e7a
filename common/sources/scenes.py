"""Rendered scenes: one solid object on a textured ground.

A class has an outline and a hue, so that a network which trains for a few minutes can tell some of them apart; all else
is drawn at random.
"""

import colorsys

import numpy as np
from numpy.random import RandomState
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 160, 120
SUPERSAMPLING = 4
SIZES = (0.4, 0.55)  # diameter of the disc that has the object's area, of the picture's height
HUE_SPREAD = 0.03  # to either side of the class's own; a circle is 1
LEAST_CONTRAST = 0.65  # between object and ground: distance in RGB, each channel 0 to 1
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)


def render_scene(class_index: int, picture: int) -> Image.Image:
    """RGB, 160 wide and 120 high: an object of class `CLASSES[class_index]`. The two numbers decide every pixel."""
    random = RandomState([class_index, picture])
    ground_color, object_color = _contrasting_colors(class_index / len(CLASSES), random)
    ground = _distract(_ground(ground_color, random), random)
    radius = random.uniform(*SIZES) * HEIGHT / 2
    mask = _mask(_place(OUTLINES[CLASSES[class_index]], radius, random))
    return Image.fromarray(np.uint8(255 * np.clip(_compose(ground, object_color, mask, radius, random), 0, 1)))


def _contrasting_colors(hue: float, random: RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colors, float [3] in 0 to 1: a calm one for the ground, a vivid one near `hue` for the object."""
    while True:
        ground = np.array(colorsys.hsv_to_rgb(random.rand(), random.uniform(0.1, 0.5), random.uniform(0.3, 0.85)))
        near = (hue + random.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
        vivid = np.array(colorsys.hsv_to_rgb(near, random.uniform(0.7, 1.0), random.uniform(0.7, 1.0)))
        if np.linalg.norm(ground - vivid) > LEAST_CONTRAST:
            return ground, vivid


def _ground(color: np.ndarray, random: RandomState) -> np.ndarray:
    """float [H, W, 3]: a gradient with clouds, in a third of the scenes with stripes, in a third with a horizon."""
    angle = random.uniform(0, 2 * np.pi)
    along = (COLUMNS / WIDTH - 0.5) * np.cos(angle) + (ROWS / HEIGHT - 0.5) * np.sin(angle)
    light = 0.25 * along + 0.07 * _clouds(4, random) + 0.025 * _clouds(12, random) + 0.012 * random.randn(HEIGHT, WIDTH)
    kind = random.randint(3)
    if kind == 1:
        light += 0.04 * np.sin(along * random.uniform(30, 70) + random.uniform(0, 2 * np.pi))
    tint = random.uniform(-0.06, 0.06, 3)
    ground = color + light[..., None] + tint * along[..., None]
    if kind == 2:
        horizon = random.uniform(0.3, 0.7) * HEIGHT + random.uniform(-0.1, 0.1) * (COLUMNS - WIDTH / 2)
        below = np.clip(ROWS - horizon, 0, 1)[..., None]
        ground += below * random.uniform(-0.12, -0.04, 3)
    return ground


def _clouds(cells: int, random: RandomState) -> np.ndarray:
    """float [H, W]: smooth noise of variance about 1 with `cells` bumps across."""
    coarse = Image.fromarray(random.randn(cells * 3 // 4 + 1, cells + 1).astype(np.float32))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)


def _distract(ground: np.ndarray, random: RandomState) -> np.ndarray:
    """The ground with a few faint blobs, which should not draw the eye."""
    for _ in range(random.randint(2, 6)):
        row, column = random.uniform(0, HEIGHT), random.uniform(0, WIDTH)
        distance = np.hypot(ROWS - row, COLUMNS - column) - random.uniform(3, 8)
        ground = ground + np.clip(0.5 - distance / 2, 0, 1)[..., None] * random.uniform(-0.09, 0.09, 3)
    return ground


def _place(outline: np.ndarray, radius: float, random: RandomState) -> np.ndarray:
    """Turn an outline about its centre, tilt it a little and move it anywhere inside the frame; [n, 2] in pixels."""
    turn, lean = random.uniform(0, 2 * np.pi, 2)
    tilt = _rotation(lean) @ np.diag([1.0, random.uniform(0.85, 1.0)]) @ _rotation(-lean)
    placed = outline @ (tilt @ _rotation(turn)).T * radius
    room = np.array([WIDTH, HEIGHT]) - 4 - np.ptp(placed, axis=0)
    return placed - placed.min(axis=0) + 2 + random.uniform(0, 1, 2) * room


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _mask(polygon: np.ndarray) -> np.ndarray:
    """float [H, W]: how much of each pixel lies in the polygon [n, 2]."""
    canvas = Image.new("L", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon((polygon * SUPERSAMPLING).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING)) / 255.0


def _compose(ground: np.ndarray, color: np.ndarray, mask: np.ndarray, radius: float, random: RandomState) -> np.ndarray:
    """Lay a lit, grained body with the outline `mask` on the ground, with the shadow that it casts; float [H, W, 3]."""
    azimuth = random.uniform(0, 2 * np.pi)
    across, down = np.cos(azimuth), np.sin(azimuth)
    shadow = _blur(mask, radius / 6, shift=(-0.25 * radius * down, -0.25 * radius * across))
    grain = 1 + 0.05 * _clouds(32, random)
    slope_down, slope_across = np.gradient(_blur(mask, radius / 4) * radius * 0.9)
    steepness = np.sqrt(slope_down**2 + slope_across**2 + 1)
    facing = (0.6 * (-slope_across * across - slope_down * down) + 0.8) / steepness
    body = color * ((0.35 + 0.75 * np.clip(facing, 0, 1)) * grain)[..., None]
    body += 0.6 * (np.clip(facing, 0, 1) ** 24)[..., None] * random.uniform(0.3, 1.0)
    lit_ground = ground * (1 - 0.45 * shadow[..., None])
    return lit_ground + mask[..., None] * (body - lit_ground)


def _blur(image: np.ndarray, sigma: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Gaussian blur of [H, W], moved by `shift` pixels down and across; beyond the edges all is 0."""
    down = _gaussian(ROWS[:, :1] - ROWS[:, 0] - shift[0], sigma)
    across = _gaussian(COLUMNS[0] - COLUMNS[:1].T - shift[1], sigma)
    return down @ image @ across


def _gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def _arc(radius: float, start: float, end: float, points: int = 72) -> np.ndarray:
    """Points of a circle about the origin, between two angles; [points, 2]."""
    return _curve(np.full(points, radius), np.linspace(start, end, points))


def _curve(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Polar to Cartesian, [n, 2]."""
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _regular(radii: list[float]) -> np.ndarray:
    """A polygon whose corners have these distances from the centre, at equal angles."""
    return _curve(np.array(radii), np.arange(len(radii)) * 2 * np.pi / len(radii))


def _crescent() -> np.ndarray:
    """The unit circle less a smaller circle to its right: two arcs that meet at the tips."""
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
    return _curve(0.35 + 0.65 * np.abs(np.cos(2.5 * angle)) ** 0.7, angle)


def _fit(outline: np.ndarray) -> np.ndarray:
    """Centre an outline [n, 2] and give it the area of the unit disc, so that no class is larger than another."""
    centred = outline - (outline.min(axis=0) + outline.max(axis=0)) / 2
    following = np.roll(centred, -1, axis=0)
    area = abs(centred[:, 0] @ following[:, 1] - centred[:, 1] @ following[:, 0]) / 2
    return centred * np.sqrt(np.pi / area)


_CIRCLE = _arc(1.0, 0, 2 * np.pi)
OUTLINES: dict[str, np.ndarray] = {
    name: _fit(np.asarray(outline, np.float64))
    for name, outline in {
        "arrow": [(-5, -2), (0, -2), (0, -5), (6, 0), (0, 5), (0, 2), (-5, 2)],
        "ball": _CIRCLE,
        "box": _regular([1.0] * 4),
        "crescent": _crescent(),
        "cross": [
            *[(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1)],
            *[(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)],
        ],
        "flower": _flower(),
        "heart": _heart(),
        "ring": np.concatenate([_CIRCLE, 0.5 * _CIRCLE[::-1]]),
        "star": _regular([1.0, 0.42] * 5),
        "triangle": _regular([1.0] * 3),
    }.items()
}
CLASSES = tuple(OUTLINES)
