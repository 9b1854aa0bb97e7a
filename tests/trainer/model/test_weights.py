"""Tests of the weights with which a backbone starts, in the layouts of other projects."""

import io
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from common.errors import UserError
from trainer.model.backbone import Backbone
from trainer.model.weights import initialize_backbone, parse_resnet_weights

torch.manual_seed(5)
STATE = torchvision.models.resnet18().state_dict()
ENCODER = {name: weight for name, weight in STATE.items() if not name.startswith("fc.")}
HEAD = {"weight": torch.ones(3, 3), "bias": torch.ones(3)}


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in state.items()}


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def moco() -> dict[str, Any]:
    queries = with_prefix("module.encoder_q.", ENCODER | {f"fc.0.{name}": weight for name, weight in HEAD.items()})
    keys = with_prefix("module.encoder_k.", {name: weight + 1 for name, weight in ENCODER.items()})
    return {"epoch": 200, "arch": "resnet50", "state_dict": {**keys, **queries, "module.queue": torch.ones(3, 9)}}


def swav() -> dict[str, Tensor]:
    heads = {"prototypes.weight": HEAD["weight"], "projection_head.0.bias": HEAD["bias"]}
    return with_prefix("module.", ENCODER | heads)


def dino() -> dict[str, Any]:
    student = {name: weight * 0 for name, weight in ENCODER.items()}
    return {
        "student": with_prefix("module.backbone.", student),
        "teacher": with_prefix("backbone.", ENCODER),
        "epoch": 1,
    }


def own() -> dict[str, Any]:
    return {"step": 3, "recipe": "contrastive", "model": with_prefix("backbone.resnet.", ENCODER)}


FILES = {
    "torchvision": ("weights.pth", saved(STATE)),
    "no counters": ("old.pth", saved({name: STATE[name] for name in STATE if "num_batches" not in name})),
    "safetensors": ("weights.safetensors", safetensors.torch.save(STATE)),
    "MoCo v2": ("moco.pth.tar", saved(moco())),
    "MoCo v3": ("moco3.pth.tar", saved({"state_dict": with_prefix("module.base_encoder.", STATE)})),
    "SwAV": ("swav.pth.tar", saved(swav())),
    "DINO": ("dino.pth", saved(dino())),
    "this project": ("last", saved(own())),
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_of_other_projects_are_loaded(kind: str) -> None:
    name, content = FILES[kind]
    backbone = Backbone("resnet18")
    remark = initialize_backbone(backbone, name, content)
    assert remark == f"--init {name}: 100 tensors of the backbone loaded"
    for key, weight in backbone.resnet.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(weight, ENCODER[key]), key


@pytest.mark.parametrize("stride", [2, 1])
def test_stem_of_another_stride_is_skipped_and_reported(stride: Any) -> None:
    backbone = Backbone("resnet18", stem_stride=stride)
    before = backbone.resnet.conv1.weight.clone()
    remark = initialize_backbone(backbone, "weights.pth", FILES["torchvision"][1])
    assert remark.endswith("conv1.weight was skipped, because it is 7x7 in the file and 3x3 here")
    assert torch.equal(backbone.resnet.conv1.weight, before)
    assert torch.equal(backbone.resnet.layer4[1].conv2.weight, STATE["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            Backbone("resnet34"),
            r"another network: \d+ tensors .*: layer1\.2\.bn1\.bias, .* \.\.\.; choose the --backbone",
        ),
        (
            Backbone("resnet18", "group"),
            r"another network: 60 tensors .*: bn1\.num_batches_tracked, bn1\.running_mean, ",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused(backbone: Backbone, message: str) -> None:
    before = {name: weight.clone() for name, weight in backbone.resnet.state_dict().items()}
    with pytest.raises(UserError, match=f"--init weights.pth: the weights of {message}"):
        initialize_backbone(backbone, "weights.pth", FILES["torchvision"][1])
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.resnet.state_dict().items())


def test_file_without_a_resnet_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected the weights of a ResNet .*, found no tensor conv1\.weight in it"):
        initialize_backbone(Backbone("resnet18"), "other.pth", saved(nn.Linear(3, 3).state_dict()))
    with pytest.raises(UserError, match=r"found a pickled torchvision\.models\.resnet\.ResNet"):
        initialize_backbone(Backbone("resnet18"), "model.pth", saved(torchvision.models.resnet18()))


def test_safetensors_file_without_a_resnet_is_refused_as_such() -> None:
    content = safetensors.torch.save(nn.Linear(3, 3).state_dict())
    with pytest.raises(UserError, match=r"other\.safetensors: expected the weights of a ResNet .*, found no tensor"):
        parse_resnet_weights("other.safetensors", content)
