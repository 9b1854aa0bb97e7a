import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from labeler.teacher.model import BLOCKS, INPUT_SIZE, AttentionTeacher, SameConv, legacy_bilinear_matrix, resize_and_sum

LIKE = torch.zeros(())


@pytest.fixture(scope="module")
def teacher() -> AttentionTeacher:
    torch.manual_seed(0)
    return AttentionTeacher().eval()


def random_images(batch: int = 1, height: int = 96, width: int = 128) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def same_convolution(features: torch.Tensor, weight: torch.Tensor, stride: int) -> np.ndarray:
    """TensorFlow's definition of SAME padding: ceil(n / stride) outputs, the smaller half of the padding first."""
    channels, height, width = features.shape
    kernel = weight.shape[-1]
    rows, columns = -(-height // stride), -(-width // stride)
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((columns - 1) * stride + kernel - width, 0) // 2
    padded = np.zeros((channels, height + 2 * kernel, width + 2 * kernel))
    padded[:, top : top + height, left : left + width] = features.numpy()
    output = np.zeros((weight.shape[0], rows, columns))
    for row in range(rows):
        for column in range(columns):
            window = padded[:, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            output[:, row, column] = (weight.numpy() * window).sum((1, 2, 3))
    return output


def legacy_resize(values: np.ndarray, target: int) -> np.ndarray:
    """TensorFlow 1's definition of bilinear resizing, along one axis."""
    source = len(values)
    result = []
    for index in range(target):
        position = index * source / target
        left = int(position)
        right = min(left + 1, source - 1)
        result.append(values[left] + (values[right] - values[left]) * (position - left))
    return np.array(result)


@given(
    st.integers(1, 11),
    st.integers(1, 11),
    st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)]),
    st.integers(0, 2**32 - 1),
)
def test_same_convolution_matches_tensorflows_definition(height: int, width: int, kernel_and_stride, seed: int) -> None:
    kernel, stride = kernel_and_stride
    generator = torch.Generator().manual_seed(seed)
    convolution = SameConv(2, 3, kernel, stride, bias=False)
    convolution.weight.data = torch.randn(convolution.weight.shape, generator=generator)
    features = torch.randn(2, height, width, generator=generator)
    found = convolution(features[None])[0].detach().numpy()
    assert found == pytest.approx(same_convolution(features, convolution.weight.detach(), stride), abs=1e-4)


def test_grouped_same_convolution_does_not_mix_channels() -> None:
    convolution = SameConv(4, 4, 5, 2, groups=4, bias=False)
    features = torch.zeros(1, 4, 9, 10)
    features[:, 2] = 1
    assert convolution(features).abs().sum((0, 2, 3)).nonzero().flatten().tolist() == [2]


@given(st.integers(1, 40), st.integers(1, 120))
def test_legacy_bilinear_matches_tensorflow_1s_definition(source: int, target: int) -> None:
    values = np.random.default_rng(source).random(source)
    matrix = legacy_bilinear_matrix(source, target, LIKE).double().numpy()
    assert matrix.shape == (target, source)
    assert matrix @ values == pytest.approx(legacy_resize(values, target), abs=1e-5)


@given(st.integers(1, 40), st.integers(1, 120))
def test_legacy_bilinear_averages_with_nonnegative_weights(source: int, target: int) -> None:
    matrix = legacy_bilinear_matrix(source, target, LIKE)
    assert (matrix >= 0).all()
    assert matrix.sum(1).numpy() == pytest.approx(np.ones(target), abs=1e-6)


@given(st.integers(1, 60))
def test_legacy_bilinear_to_the_same_size_is_the_identity(size: int) -> None:
    assert torch.equal(legacy_bilinear_matrix(size, size, LIKE), torch.eye(size))


@pytest.mark.parametrize("scale", [2, 8, 16, 32])
@pytest.mark.parametrize("size", [(15, 20), (3, 7), (1, 4)])
def test_resizing_by_a_whole_factor_is_align_corners_with_repeated_edges(size: tuple[int, int], scale: int) -> None:
    height, width = size
    maps = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    corners = ((height - 1) * scale + 1, (width - 1) * scale + 1)
    expected = F.interpolate(maps[:, None], corners, mode="bilinear", align_corners=True)
    expected = F.pad(expected, (0, scale - 1, 0, scale - 1), mode="replicate")[:, 0]
    assert torch.allclose(resize_and_sum([maps], height * scale, width * scale), expected, atol=1e-5)


def test_resized_maps_are_summed() -> None:
    small, large = torch.rand(1, 3, 4), torch.rand(1, 6, 8)
    both = resize_and_sum([small, large], 12, 16)
    assert torch.allclose(both, resize_and_sum([small], 12, 16) + resize_and_sum([large], 12, 16), atol=1e-6)


def test_network_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in AttentionTeacher().parameters()) == pytest.approx(289_000, rel=0.005)


def test_branches_read_the_feature_levels_of_mobilenet_v3_small(teacher: AttentionTeacher) -> None:
    shapes = []
    handles = [
        branch.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        for branch in teacher.branches
    ]
    teacher.logits(torch.rand(1, 3, *INPUT_SIZE))
    for handle in handles:
        handle.remove()
    assert shapes == [(1, 24, 60, 80), (1, 40, 30, 40), (1, 48, 30, 40), (1, 96, 15, 20)]


def test_every_norm_has_eight_groups_and_tensorflows_epsilon(teacher: AttentionTeacher) -> None:
    norms = [module for module in teacher.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert len(norms) == 27
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(8, 1e-6)}


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 64), (240, 320), (1, 1), (500, 3)])
def test_maps_have_the_size_of_the_images_and_maximum_1(teacher: AttentionTeacher, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        maps = teacher(random_images(2, *size))
    assert maps.shape == (2, *size)
    assert maps.dtype == torch.float32
    assert maps.amax((1, 2)).numpy() == pytest.approx(np.ones(2), abs=1e-6)
    assert (maps > 0).all()


def test_predict_divides_the_sigmoid_of_the_logits_by_its_maximum(teacher: AttentionTeacher) -> None:
    images = random_images(3)
    with torch.inference_mode():
        maps, maxima = teacher.predict(images)
        attention = teacher.logits(images).sigmoid()
    assert torch.allclose(maxima, attention.amax((1, 2)))
    assert torch.allclose(maps * maxima[:, None, None], attention, rtol=1e-5)


def test_map_does_not_depend_on_the_other_images_of_the_batch(teacher: AttentionTeacher) -> None:
    images = random_images(4)
    with torch.inference_mode():
        batched, single = teacher(images), torch.cat([teacher(image[None]) for image in images])
    assert torch.allclose(batched, single, atol=1e-4)


def test_maximum_is_1_even_if_the_logits_are_very_low(teacher: AttentionTeacher) -> None:
    bias = teacher.branches[0].combine.bias
    before = bias.data.clone()
    bias.data -= 40
    with torch.inference_mode():
        maps, maxima = teacher.predict(random_images())
    bias.data = before
    assert 0 < maxima.item() < 1e-12
    assert maps.max().item() == pytest.approx(1, abs=1e-6)
    assert maps.isfinite().all()


def test_prediction_does_not_modify_the_images(teacher: AttentionTeacher) -> None:
    images = random_images().contiguous(memory_format=torch.channels_last)
    before = images.clone()
    teacher(images)
    assert torch.equal(images, before)


def test_logits_are_float32_under_autocast(teacher: AttentionTeacher) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = teacher.logits(random_images())
    assert logits.dtype == torch.float32


def test_every_parameter_gets_a_gradient() -> None:
    network = AttentionTeacher()
    network(random_images()).sum().backward()
    without_gradient = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without_gradient == []
    assert len(network.blocks) == len(BLOCKS)
