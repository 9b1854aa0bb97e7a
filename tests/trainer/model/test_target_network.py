import copy
import math

import pytest
import torch

from trainer.model.backbone import Backbone
from trainer.model.heads import MLPHead
from trainer.model.target_network import TargetNetwork, target_momentum


@pytest.fixture
def networks():
    torch.manual_seed(0)
    backbone, projector = Backbone("resnet18"), MLPHead((512, 64, 32))
    return backbone, projector, TargetNetwork(backbone, projector)


def change(*modules):
    with torch.no_grad():
        for module in modules:
            for weights in module.parameters():
                weights.add_(torch.randn_like(weights))


def test_target_starts_as_a_copy_and_computes_what_the_original_computes(networks):
    backbone, projector, target = networks
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(target(images), projector(backbone(images).pooled))


def test_target_has_no_gradient(networks):
    backbone, projector, target = networks
    assert not target(torch.rand(2, 3, 32, 32)).requires_grad
    assert not any(weights.requires_grad for weights in target.parameters())
    assert all(weights.requires_grad for weights in [*backbone.parameters(), *projector.parameters()])


def test_weights_move_towards_the_original_by_one_minus_the_momentum(networks):
    backbone, projector, target = networks
    change(backbone, projector)
    before = [weights.clone() for weights in target.parameters()]
    target.follow(backbone, projector, 0.9)
    originals = [*backbone.parameters(), *projector.parameters()]
    for weights, old, original in zip(target.parameters(), before, originals, strict=True):
        torch.testing.assert_close(weights, 0.9 * old + 0.1 * original)


def test_momentum_0_copies_exactly_and_momentum_1_changes_nothing(networks):
    backbone, projector, target = networks
    change(backbone, projector)
    before = copy.deepcopy(target.state_dict())
    target.follow(backbone, projector, 1)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    target.follow(backbone, projector, 0)
    originals = [*backbone.parameters(), *projector.parameters()]
    assert all(torch.equal(*pair) for pair in zip(target.parameters(), originals, strict=True))


def test_running_statistics_of_the_target_are_its_own_and_it_normalizes_by_those_of_the_batch(networks):
    backbone, projector, target = networks
    images = torch.rand(8, 3, 32, 32)
    expected = projector(backbone(images).pooled)
    backbone(torch.rand(8, 3, 32, 32) * 3)
    target.follow(backbone, projector, 0.5)
    assert not torch.equal(target.backbone.resnet.bn1.running_mean, backbone.resnet.bn1.running_mean)
    target.backbone.resnet.bn1.running_mean.fill_(9)
    torch.testing.assert_close(target(images), expected)


def test_momentum_rises_by_a_cosine_as_in_the_paper():
    steps = 10
    for step in range(steps + 1):
        expected = 1 - (1 - 0.996) * (math.cos(math.pi * step / steps) + 1) / 2
        assert target_momentum(step / steps) == pytest.approx(expected)
    assert target_momentum(0) == pytest.approx(0.996)
    assert target_momentum(1) == 1
