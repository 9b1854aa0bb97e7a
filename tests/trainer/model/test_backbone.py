import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainer.model.backbone import Backbone, small_stem_code


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet34", 16), ("resnet50", 16)])
def test_each_residual_block_starts_as_the_identity(name, blocks, norm):
    """It adds nothing to its shortcut: the weights of its last norm are 0."""
    residual_blocks = [
        module for module in Backbone(name, norm).modules() if isinstance(module, (BasicBlock, Bottleneck))
    ]
    assert len(residual_blocks) == blocks
    for block in residual_blocks:
        last_norm = block.bn2 if isinstance(block, BasicBlock) else block.bn3
        assert isinstance(last_norm, nn.BatchNorm2d if norm == "batch" else nn.GroupNorm)
        assert not last_norm.weight.any()
        assert not last_norm.bias.any()
        maps = torch.rand(2, block.conv1.in_channels, 4, 4)
        shortcut = maps if block.downsample is None else block.downsample(maps)
        torch.testing.assert_close(block(maps), shortcut.relu())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_are_those_of_torchvision_for_normalized_images(name):
    torch.manual_seed(0)
    backbone = Backbone(name).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.8)
    network = getattr(torchvision.models, name)().eval()
    network.load_state_dict(backbone.resnet.state_dict(), strict=False)
    outputs = {}
    for layer in ("layer2", "layer3", "layer4", "avgpool"):
        getattr(network, layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: outputs.update({layer: output})
        )
    images = torch.rand(2, 3, 64, 96)
    normalized = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        network(normalized)
        features = backbone(images)
    torch.testing.assert_close(features.pooled, outputs["avgpool"].flatten(1), rtol=1e-4, atol=1e-5)
    for stage, layer in zip(features.stages, ("layer2", "layer3", "layer4"), strict=True):
        torch.testing.assert_close(stage, outputs[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "sides"), [(4, (8, 4, 2)), (2, (16, 8, 4)), (1, (32, 16, 8))])
def test_stem_stride_decides_the_size_of_the_maps(stride, sides):
    backbone = Backbone("resnet18", stem_stride=stride)
    features = backbone(torch.rand(2, 3, 64, 64))
    assert tuple(stage.shape[-1] for stage in features.stages) == sides
    assert features.pooled.shape == (2, 512)
    assert backbone.resnet.conv1.kernel_size == ((7, 7) if stride == 4 else (3, 3))


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_line_of_code_gives_torchvisions_network_the_same_stem(stride):
    backbone = Backbone("resnet18", stem_stride=stride).eval()
    model = torchvision.models.resnet18()
    exec(small_stem_code("model", stride), {"torch": torch, "model": model})
    model.fc = nn.Identity()
    model.load_state_dict(backbone.resnet.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        normalized = (images - backbone.mean) / backbone.std
        torch.testing.assert_close(model.eval()(normalized), backbone(images).pooled, rtol=1e-4, atol=1e-5)
