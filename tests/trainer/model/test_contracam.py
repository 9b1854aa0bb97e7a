import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.losses import attention_loss
from trainer.model.backbone import Features
from trainer.model.contracam import ContraCAM, contrastive_scores, scale_maps
from trainer.model.heads import ProjectionHead

SIZE = (9, 12)  # of the maps


def make_example(seed=0, number=5, channels=64):
    """Return a convolution that stands in for the backbone, a head without batch norm, images and target maps."""
    torch.manual_seed(seed)
    convolution, head = nn.Conv2d(3, channels, 3, padding=1), ProjectionHead(channels, norm="group")
    images, target = torch.rand(number, 3, 3, 4), torch.rand(number, *SIZE)
    return convolution, head, images, target


def compute_features(convolution, images):
    """Return features whose stages are all the same, as after a ResNet's last ReLU."""
    last = F.relu(convolution(images))
    return Features(last.mean((2, 3)), (last, last, last))


def reference_maps(last, head, second_order):
    """Compute the equations image by image, with gradients with respect to the last stage itself."""
    maps = []
    keys = [F.normalize(head(maps_of_image.mean((1, 2))[None]))[0].detach() for maps_of_image in last]
    for n in range(len(last)):
        stage = last if second_order else last.detach().requires_grad_()
        z = F.normalize(head(stage[n].mean((1, 2))[None]))[0]
        others = sum(torch.exp(z @ keys[k]) for k in range(len(last)) if k != n)
        score = torch.log(torch.exp(z @ keys[n]) / others)
        (gradient,) = torch.autograd.grad(score, stage, create_graph=second_order)
        weights = gradient[n].mean((1, 2)).relu()
        weighted_sum = (weights[:, None, None] * last[n]).sum(0).relu().double()
        maps.append(((weighted_sum - weighted_sum.min()) / (weighted_sum.max() - weighted_sum.min())).float())
    return F.interpolate(torch.stack(maps)[:, None], SIZE, mode="bilinear")[:, 0]


def loss_and_gradients(predict, modules, target):
    points = [torch.tensor([[0.4, 0.6], [0.8, 0.1]])] * len(target)
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    prediction = predict()
    loss = attention_loss(prediction, target, points).loss
    return prediction, torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_maps_and_gradients_are_those_of_the_equations(second_order, seed):
    convolution, head, images, target = make_example(seed)
    cam = ContraCAM(head, second_order)
    maps, gradients = loss_and_gradients(
        lambda: cam(compute_features(convolution, images), SIZE), (convolution, head), target
    )
    expected_maps, expected_gradients = loss_and_gradients(
        lambda: reference_maps(compute_features(convolution, images).stages[-1], head, second_order),
        (convolution, head),
        target,
    )
    torch.testing.assert_close(maps, expected_maps, rtol=1e-4, atol=1e-5)
    assert 0 < maps.max() <= 1
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item() + 1e-9)
    head_is_trained = any(gradient.abs().max() > 0 for gradient in gradients[2:])
    assert head_is_trained == second_order


def test_second_order_changes_gradients_but_not_maps():
    convolution, head, images, target = make_example()
    results = []
    for second_order in (False, True):
        cam = ContraCAM(copy.deepcopy(head), second_order)

        def predict(cam=cam):
            return cam(compute_features(convolution, images), SIZE)

        results.append(loss_and_gradients(predict, (convolution,), target))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1][0], results[1][1][0], rtol=1e-2)


def test_maps_can_be_computed_without_a_graph():
    convolution, head, images, _ = make_example()
    with torch.no_grad():
        features = compute_features(convolution, images)
        torch.testing.assert_close(ContraCAM(head)(features, SIZE), ContraCAM(head, True)(features, SIZE))


def test_single_image_is_rejected():
    with pytest.raises(ValueError, match="expected two or more at once, found one"):
        contrastive_scores(torch.rand(1, 8))


def test_constant_map_becomes_0_with_a_finite_gradient():
    maps = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 2.0), -torch.rand(3, 3)]).requires_grad_()
    scale_maps(maps).sum().backward()
    assert (scale_maps(maps) == 0).all()
    assert maps.grad.isfinite().all()
