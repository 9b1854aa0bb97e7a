import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter

from common.errors import ImageFailure, Reason
from common.gaze import gaze_points

HEIGHT, WIDTH, SIGMA = 120, 160, 4.75  # SALICON's sigma of 19 px at 480 x 640, on a quarter of its grid


def fixation_map(fixations: int, seed: int, height: int = HEIGHT, width: int = WIDTH, sigma: float = SIGMA):
    """A map of randomly weighted fixations, blurred like SALICON's maps and scaled to a maximum of 1."""
    generator = np.random.default_rng(seed)
    impulses = np.zeros((height, width))
    rows, columns = generator.integers(0, height, fixations), generator.integers(0, width, fixations)
    impulses[rows, columns] = generator.uniform(0.3, 1, fixations)
    blurred = gaussian_filter(impulses, sigma, mode="constant")
    return blurred / blurred.max()


def gaze_points_of_the_paper(attention, sigma: float, threshold: float = 0.2):
    """Literal implementation of section 3.3: for every point, blur an impulse over the whole image and subtract it."""
    remaining = attention.astype(np.float64).copy()
    first = remaining.max()
    points = []
    while remaining.max() >= threshold * first:
        row, column = np.unravel_index(remaining.argmax(), remaining.shape)
        value = remaining[row, column]
        points.append(((column + 0.5) / remaining.shape[1], (row + 0.5) / remaining.shape[0], value / first))
        impulse = np.zeros_like(remaining)
        impulse[row, column] = 1
        gaussian = gaussian_filter(impulse, sigma, mode="constant", truncate=8)
        remaining -= gaussian / gaussian[row, column] * value
    return np.array(points)


def gaussian_at(row: int, column: int, height: int = HEIGHT, width: int = WIDTH, sigma: float = SIGMA):
    y, x = np.mgrid[0:height, 0:width]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))


maps = arrays(
    np.float32,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.floats(0, 1, width=32, allow_subnormal=False),
).filter(lambda values: values.max() > 1e-3 and np.ptp(values) > 1e-5 * values.max())


@pytest.mark.parametrize("seed", range(12))
def test_points_match_a_literal_implementation_of_the_paper(seed: int) -> None:
    attention = fixation_map(fixations=3 + 3 * seed, seed=seed)
    expected, found = gaze_points_of_the_paper(attention, SIGMA), gaze_points(attention, SIGMA)
    assert abs(len(found) - len(expected)) <= 1
    strong = expected[expected[:, 2] > 0.25]  # rounding may add or remove points near the threshold
    distances = np.hypot(
        (strong[:, None, 0] - found[None, :, 0]) * WIDTH, (strong[:, None, 1] - found[None, :, 1]) * HEIGHT
    )
    nearest = distances.argmin(1)
    assert distances.min(1).max() <= 1.5
    assert np.abs(strong[:, 2] - found[nearest, 2]).max() < 0.01


def test_well_separated_fixations_are_recovered() -> None:
    rows, columns, heights = [20, 60, 100, 30], [20, 80, 30, 140], [1.0, 0.8, 0.5, 0.3]
    attention = sum(h * gaussian_at(r, c) for r, c, h in zip(rows, columns, heights, strict=True))
    expected = [((c + 0.5) / WIDTH, (r + 0.5) / HEIGHT, h) for r, c, h in zip(rows, columns, heights, strict=True)]
    assert gaze_points(attention, SIGMA) == pytest.approx(np.array(expected), abs=1e-3)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 159), (119, 0), (119, 159), (60, 80), (3, 157)])
def test_single_peak_gives_one_point_at_its_pixel_center(row: int, column: int) -> None:
    points = gaze_points(gaussian_at(row, column), SIGMA)
    assert points.tolist() == [pytest.approx([(column + 0.5) / WIDTH, (row + 0.5) / HEIGHT, 1])]


def test_threshold_is_relative_to_the_maximum() -> None:
    attention = 7 * (gaussian_at(30, 30) + 0.4 * gaussian_at(90, 120))
    assert len(gaze_points(attention, SIGMA, threshold=0.39)) == 2
    assert len(gaze_points(attention, SIGMA, threshold=0.41)) == 1


@given(maps, st.floats(0.3, 6), st.floats(0.05, 1), st.integers(1, 30))
def test_points_lie_inside_the_image_in_order_of_strength_above_the_threshold(
    attention, sigma, threshold, max_points
) -> None:
    points = gaze_points(attention, sigma, threshold, max_points)
    assert points.dtype == np.float32
    assert points.shape[1] == 3
    assert 1 <= len(points) <= max_points
    assert (points[:, :2] > 0).all()
    assert (points[:, :2] < 1).all()
    assert (np.diff(points[:, 2]) <= 0).all()
    assert points[0, 2] == 1
    assert points[-1, 2] >= np.float32(threshold) * (1 - 1e-6)


@given(maps, st.floats(0.3, 6))
def test_first_point_is_the_maximum(attention, sigma) -> None:
    x, y, _ = gaze_points(attention, sigma)[0]
    height, width = attention.shape
    assert attention[round(y * height - 0.5), round(x * width - 0.5)] == attention.max()


@given(maps, st.floats(0.3, 6))
def test_input_map_is_not_modified(attention, sigma) -> None:
    before = attention.copy()
    gaze_points(attention, sigma)
    assert (attention == before).all()


@given(maps, st.integers(-20, 20))
def test_scaled_map_gives_the_same_points(attention, exponent) -> None:
    # powers of two scale floats exactly; teachers produce maxima as small as 2e-5
    assert (gaze_points(attention * np.float32(2.0**exponent), 2.0) == gaze_points(attention, 2.0)).all()


@given(maps, st.floats(0.3, 6))
def test_lower_threshold_only_adds_points(attention, sigma) -> None:
    few, many = (gaze_points(attention, sigma, threshold) for threshold in (0.6, 0.3))
    assert len(few) <= len(many)
    assert (many[: len(few)] == few).all()


@given(maps, st.floats(0.3, 6))
def test_lower_max_points_returns_the_strongest_points(attention, sigma) -> None:
    assert (gaze_points(attention, sigma, max_points=3) == gaze_points(attention, sigma)[:3]).all()


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 1)[:, ::2], lambda a: a.astype("f8")])
def test_memory_layout_of_the_map_does_not_matter(layout) -> None:
    attention = fixation_map(10, seed=1).astype(np.float32)
    assert (gaze_points(layout(attention), SIGMA) == gaze_points(attention, SIGMA)).all()


def test_read_only_map_is_accepted() -> None:
    attention = fixation_map(5, seed=2)
    attention.setflags(write=False)
    assert len(gaze_points(attention, SIGMA))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 1e-30])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (HEIGHT, WIDTH)])
def test_constant_map_raises_image_failure(value: float, shape: tuple[int, int]) -> None:
    with pytest.raises(ImageFailure) as failure:
        gaze_points(np.full(shape, value), SIGMA)
    assert failure.value.reason == Reason.CONSTANT_MAP
    assert f"{value:g}" in failure.value.message


def test_relative_difference_up_to_a_millionth_counts_as_constant() -> None:
    with pytest.raises(ImageFailure, match="1e\\+06 at every pixel"):
        gaze_points(np.array([[1_000_000, 999_999]]), SIGMA)
    assert len(gaze_points(np.array([[1_000_000, 999_998]]), SIGMA))


def test_map_without_positive_values_raises_image_failure() -> None:
    with pytest.raises(ImageFailure) as failure:
        gaze_points(-gaussian_at(5, 5) - 2, SIGMA)
    assert failure.value.reason == Reason.CONSTANT_MAP
    assert failure.value.message == "the map's maximum is -2, expected a positive one"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_non_finite_map_raises_image_failure(value: float, everywhere: bool) -> None:
    attention = gaussian_at(50, 50)
    attention[slice(None) if everywhere else 3] = value
    with pytest.raises(ImageFailure) as failure:
        gaze_points(attention, SIGMA)
    assert failure.value.reason == Reason.NON_FINITE_MAP
    assert "NaN or infinity" in failure.value.message


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 0.01, 0.1])
def test_tiny_sigma_gives_one_point_per_pixel(sigma: float) -> None:
    attention = np.linspace(0.5, 1, 30).reshape(5, 6)
    points = gaze_points(attention, sigma)
    assert len(points) == 30
    assert len(np.unique(points[:, :2], axis=0)) == 30


def test_tiny_sigma_on_a_large_map_stops_at_max_points() -> None:
    attention = 1 - 0.1 * gaussian_at(60, 80)
    assert len(gaze_points(attention, 1e-3, max_points=150)) == 150
    assert len(gaze_points(attention, 1e-3)) == 200  # the default


def test_point_exactly_at_the_threshold_is_returned() -> None:
    attention = np.array([[1.0, 0.0, 0.5, 0.0, 0.2, 0.0, 0.19]])
    assert gaze_points(attention, 1e-3, threshold=0.5)[:, 2].tolist() == [1.0, 0.5]
    assert len(gaze_points(attention.astype(np.float32), 1e-3, threshold=float(np.float32(0.2)))) == 3
    assert len(gaze_points(attention, 1e-3)) == 3  # the default is 0.2, slightly less than its float32


def test_sigma_larger_than_the_map_gives_one_point() -> None:
    assert len(gaze_points(gaussian_at(10, 10, 20, 20, sigma=500.0), 500.0)) == 1


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_map_with_one_row_or_column(shape: tuple[int, int]) -> None:
    attention = np.zeros(9)
    attention[[2, 7]] = 1.0, 0.5
    points = gaze_points(attention.reshape(shape), 0.5)
    along = 0 if shape[0] == 1 else 1
    assert points[:, along].tolist() == pytest.approx([2.5 / 9, 7.5 / 9])
    assert points[:, 1 - along].tolist() == [0.5, 0.5]
