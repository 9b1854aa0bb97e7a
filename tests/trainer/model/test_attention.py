import math

import numpy as np
import pytest
import torch

from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Features

SIZE = (11, 14)  # height and width of the predicted maps
STAGE_SHAPES = ((5, 6, 7), (7, 3, 4), (9, 2, 1))  # channels, height and width of layer2, layer3 and layer4
SELECTIONS = ("gap_argmax", "channel_max", "channel_mean")


def make_features(images=4, seed=0):
    """Return random features. The channels of a stage have about the same mean, but not the same maximum."""
    generator = torch.Generator().manual_seed(seed)
    first, second, third = (torch.rand(images, *shape, generator=generator).square() for shape in STAGE_SHAPES)
    return Features(torch.zeros(images, 1), (first, second, third))


def make_readout(select, seed=1):
    """Return a read-out with weights of both signs."""
    readout = AttentionReadout(select)
    generator = torch.Generator().manual_seed(seed)
    readout.combine.weight.data.copy_(torch.randn(1, 3, 1, 1, generator=generator))
    readout.combine.bias.data.fill_(0.3)
    return readout


def select_in_loops(stage, select):
    """Reduce the maps of one image's stage, [c, h, w], to one map [h, w]."""
    channels, height, width = stage.shape
    if select == "gap_argmax":
        means = []
        for channel in range(channels):
            total = 0.0
            for y in range(height):
                for x in range(width):
                    total += stage[channel, y, x]
            means.append(total / (height * width))
        return stage[means.index(max(means))]
    selected = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            values = [stage[channel, y, x] for channel in range(channels)]
            selected[y, x] = max(values) if select == "channel_max" else sum(values) / channels
    return selected


def resize_in_loops(image, height, width):
    """Resize a map [h, w] bilinearly; pixels are squares whose values hold at their centers, and the border repeats."""
    resized = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            row = min(max((y + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
            column = min(max((x + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
            top, left = math.floor(row), math.floor(column)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            down, across = row - top, column - left
            above = (1 - across) * image[top, left] + across * image[top, right]
            below = (1 - across) * image[bottom, left] + across * image[bottom, right]
            resized[y, x] = (1 - down) * above + down * below
    return resized


def predict_in_loops(features, readout, select):
    """Compute the attention maps of the paper's section 3.3 image by image, in float64."""
    weights = readout.combine.weight.detach().double().flatten().tolist()
    maps = []
    for image in range(len(features.pooled)):
        combined = np.full(SIZE, readout.combine.bias.item())
        for stage, weight in zip(features.stages, weights, strict=True):
            selected = select_in_loops(stage[image].double().numpy(), select)
            combined += weight * resize_in_loops(selected, *SIZE)
        maps.append(1 / (1 + np.exp(-combined)))
    return np.stack(maps)


@pytest.mark.parametrize("select", SELECTIONS)
def test_map_is_the_sigmoid_of_a_linear_combination_of_one_map_per_stage(select):
    features, readout = make_features(), make_readout(select)
    with torch.no_grad():
        predicted = readout(features, SIZE)
    assert predicted.dtype == torch.float32
    np.testing.assert_allclose(predicted.numpy(), predict_in_loops(features, readout, select), atol=1e-6)


def test_default_is_the_channel_with_the_highest_mean():
    features = make_features()
    default, chosen = AttentionReadout(), AttentionReadout("gap_argmax")
    chosen.load_state_dict(default.state_dict())
    assert default.select == "gap_argmax"
    assert torch.equal(default(features, SIZE), chosen(features, SIZE))


def test_prediction_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert make_readout("gap_argmax")(make_features(), SIZE).dtype == torch.float32


def test_selections_differ():
    with torch.no_grad():
        maps = {select: make_readout(select)(make_features(), SIZE) for select in SELECTIONS}
    assert not torch.allclose(maps["gap_argmax"], maps["channel_max"], atol=1e-2)
    assert not torch.allclose(maps["gap_argmax"], maps["channel_mean"], atol=1e-2)
    assert not torch.allclose(maps["channel_max"], maps["channel_mean"], atol=1e-2)


def test_gradient_reaches_only_the_channel_with_the_highest_mean():
    features = make_features()
    stages = [stage.requires_grad_() for stage in features.stages]
    make_readout("gap_argmax")(features, SIZE).sum().backward()
    for stage in stages:
        has_gradient = stage.grad.abs().sum((2, 3)) > 0
        assert torch.equal(has_gradient.int().argmax(1), stage.detach().mean((2, 3)).max(1).indices)
        assert (has_gradient.sum(1) == 1).all()


def test_new_readout_has_four_parameters():
    assert sum(parameter.numel() for parameter in AttentionReadout().parameters()) == 4
