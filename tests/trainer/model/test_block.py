import numpy as np
import torch
from scipy import signal

from trainer.model.backbone import Features
from trainer.model.block import AttentionBlock, MaskReadout

CHANNELS, HEIGHT, WIDTH = 8, 4, 5


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def mask_in_loops(block, maps):
    """Compute sigmoid(conv1x1(ReLU(conv3x3(maps)))) of one image, [c, h, w] -> [h, w], in float64."""
    weights = {name: weight.detach().double().numpy() for name, weight in block.named_parameters()}
    combined = np.full((HEIGHT, WIDTH), weights["mask.bias"][0])
    for hidden in range(CHANNELS // 4):
        total = np.full((HEIGHT, WIDTH), weights["hidden.bias"][hidden])
        for channel in range(CHANNELS):
            total += signal.correlate2d(maps[channel], weights["hidden.weight"][hidden, channel], mode="same")
        combined += weights["mask.weight"][0, hidden, 0, 0] * np.maximum(total, 0)
    return sigmoid(combined)


def make_example():
    torch.manual_seed(0)
    block, last = AttentionBlock(CHANNELS), torch.rand(3, CHANNELS, HEIGHT, WIDTH)
    for weights in block.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    earlier = torch.rand(3, 2, 8, 10), torch.rand(3, 4, 6, 7)
    return block, Features(last.mean((2, 3)), (*earlier, last))


def test_features_are_pooled_under_the_mask_of_the_last_stage():
    block, features = make_example()
    with torch.no_grad():
        masked = block(features)
    last = features.stages[-1].double().numpy()
    masks = np.stack([mask_in_loops(block, maps) for maps in last])
    assert masks.std() > 0.05
    np.testing.assert_allclose(masked.mask.numpy(), masks, atol=1e-6)
    np.testing.assert_allclose(masked.pooled.numpy(), (masks[:, None] * last).mean((2, 3)), atol=1e-6)
    assert all(after is before for after, before in zip(masked.stages, features.stages, strict=True))


def test_mask_is_the_predicted_attention():
    block, features = make_example()
    with torch.no_grad():
        masked = block(features)
        predicted = MaskReadout()(masked, (HEIGHT, WIDTH))
        larger = MaskReadout()(masked, (4 * HEIGHT, 4 * WIDTH))
    assert torch.equal(predicted, masked.mask)
    assert larger.shape == (3, 4 * HEIGHT, 4 * WIDTH)
    torch.testing.assert_close(larger[:, 0, 0], masked.mask[:, 0, 0])
    torch.testing.assert_close(larger[:, -1, 0], masked.mask[:, -1, 0])
