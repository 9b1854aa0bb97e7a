import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.losses import attention_loss
from trainer.model.backbone import Features
from trainer.model.contracam import ContraCAM, contrastive_scores, scale_maps
from trainer.model.heads import ProjectionHead

SIZE = (9, 12)


def parts(seed=0, images=5, channels=64):
    """A convolution that makes the last stage, a head without batch norm, pictures, and maps to learn."""
    torch.manual_seed(seed)
    convolution, head = nn.Conv2d(3, channels, 3, padding=1), ProjectionHead(channels, norm="group")
    pictures, target = torch.rand(images, 3, 3, 4), torch.rand(images, *SIZE)
    return convolution, head, pictures, target


def last_stage(convolution, pictures):
    return F.relu(convolution(pictures))


def transcription(last, head, second_order):
    """The equations one image and one autograd call at a time, with respect to A itself."""
    maps = []
    keys = [F.normalize(head(one.mean((1, 2))[None]))[0].detach() for one in last]
    for n in range(len(last)):
        stage = last if second_order else last.detach().requires_grad_()
        z = F.normalize(head(stage[n].mean((1, 2))[None]))[0]
        others = sum(torch.exp(z @ keys[k]) for k in range(len(last)) if k != n)
        score = torch.log(torch.exp(z @ keys[n]) / others)
        (slope,) = torch.autograd.grad(score, stage, create_graph=second_order)
        weights = slope[n].mean((1, 2)).relu()
        summed = (weights[:, None, None] * last[n]).sum(0).relu().double()
        maps.append(((summed - summed.min()) / (summed.max() - summed.min())).float())
    return F.interpolate(torch.stack(maps)[:, None], SIZE, mode="bilinear")[:, 0]


def loss_and_gradients(predict, modules, target):
    points = [torch.tensor([[0.4, 0.6], [0.8, 0.1]])] * len(target)
    weights = [one for module in modules for one in module.parameters() if one.requires_grad]
    prediction = predict()
    loss = attention_loss(prediction, target, points).loss
    return prediction, torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_map_and_gradients_are_those_of_the_equations(second_order, seed):
    convolution, head, pictures, target = parts(seed)
    cam = ContraCAM(head, second_order)

    def ours():
        last = last_stage(convolution, pictures)
        return cam(Features(last.mean((2, 3)), (last, last, last)), SIZE)

    found, slopes = loss_and_gradients(ours, (convolution, head), target)
    wanted, expected = loss_and_gradients(
        lambda: transcription(last_stage(convolution, pictures), head, second_order), (convolution, head), target
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert 0 < found.max() <= 1
    for slope, theirs in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, theirs, rtol=2e-3, atol=2e-3 * theirs.abs().max().item() + 1e-9)
    head_learns = any(slope.abs().max() > 0 for slope in slopes[2:])
    assert head_learns == second_order


def test_the_two_orders_differ_in_gradient_not_in_value():
    convolution, head, pictures, target = parts()
    results = []
    for second_order in (False, True):
        cam = ContraCAM(copy.deepcopy(head), second_order)

        def predicted(cam=cam):
            last = last_stage(convolution, pictures)
            return cam(Features(last.mean((2, 3)), (last, last, last)), SIZE)

        results.append(loss_and_gradients(predicted, (convolution,), target))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1][0], results[1][1][0], rtol=1e-2)


def test_a_map_is_there_without_gradient_too():
    convolution, head, pictures, _ = parts()
    with torch.no_grad():
        last = last_stage(convolution, pictures)
        features = Features(last.mean((2, 3)), (last, last, last))
        torch.testing.assert_close(ContraCAM(head)(features, SIZE), ContraCAM(head, True)(features, SIZE))


def test_one_image_alone_is_refused():
    with pytest.raises(ValueError, match="expected two or more at once, found one"):
        contrastive_scores(torch.rand(1, 8))


def test_a_constant_map_is_0_with_a_gradient_that_is_a_number():
    maps = torch.stack([torch.zeros(3, 3), torch.full((3, 3), 2.0), -torch.rand(3, 3)]).requires_grad_()
    scale_maps(maps).sum().backward()
    assert (scale_maps(maps) == 0).all()
    assert maps.grad.isfinite().all()
