import hashlib
import io
import json
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import nn

from common.errors import UserError
from common.training import save_checkpoint
from trainer.checkpoint import load_trained
from trainer.config import TrainConfig
from trainer.export import main
from trainer.formats import Deployed
from trainer.recipes import build, recipe_names

CLASSES = ["red", "lime", "blue"]
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def checkpoint(folder, classes=CLASSES, **changes):
    """A checkpoint of a model whose norms have something to tell, as after a long training."""
    config = TrainConfig(**{"backbone": "resnet18", "image_size": 64} | changes)
    torch.manual_seed(0)
    model = build(config.recipe, config, len(classes) if classes else None)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.2, 0.8)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = {"recipe": config.recipe, "config": config.model_dump(mode="json"), "classes": classes}
    save_checkpoint(folder / "best", state | {"model": model.state_dict(), "step": 7})
    return folder / "best"


def images(height=80, width=64):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def ours(path):
    """What the checkpoint's model tells of the images."""
    with torch.no_grad():
        return Deployed(load_trained(str(path)).model)(images())


def pooled_by(network):
    """The features of a torchvision ResNet, and its scores, fed with normalised images."""
    features = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: features.append(output.flatten(1)))
    with torch.no_grad():
        scores = network.eval()((images() - MEAN) / STD)
    return features[0], scores


@pytest.mark.parametrize(
    ("backbone", "norm"), [("resnet18", "batch"), ("resnet34", "batch"), ("resnet50", "batch"), ("resnet50", "group")]
)
def test_torchvision_loads_it_strictly_and_sees_the_same(tmp_path, backbone, norm):
    path = checkpoint(tmp_path, backbone=backbone, norm=norm)
    assert main([str(path), "--to", str(tmp_path / "weights.safetensors")]) == 0
    norm_layer = None if norm == "batch" else lambda channels: nn.GroupNorm(32, channels)
    network = getattr(torchvision.models, backbone)(num_classes=len(CLASSES), norm_layer=norm_layer)
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    features, scores = pooled_by(network)
    expected = ours(path)
    torch.testing.assert_close(features, expected["features"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, expected["logits"], rtol=1e-5, atol=1e-5)


def test_without_a_probe_it_fits_torchvisions_own_classifier_with_zeros(tmp_path):
    path = checkpoint(tmp_path, classes=None)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    network = torchvision.models.resnet18()
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    features, scores = pooled_by(network)
    torch.testing.assert_close(features, ours(path)["features"], rtol=1e-5, atol=1e-5)
    assert scores.shape == (2, 1000)
    assert not scores.any()


def test_the_metadata_say_where_the_weights_come_from_and_what_they_expect(tmp_path):
    path = checkpoint(tmp_path)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    with safetensors.safe_open(tmp_path / "weights.safetensors", "pt") as file:
        told = file.metadata()
    assert told["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(told["mean"]) == pytest.approx(MEAN.flatten().tolist())
    assert json.loads(told["std"]) == pytest.approx(STD.flatten().tolist())
    assert json.loads(told["classes"]) == CLASSES
    assert (told["recipe"], told["architecture"]) == ("contrastive-attn-teacher", "torchvision resnet18")


def test_an_onnx_graph_tells_what_the_model_tells(tmp_path):
    path = checkpoint(tmp_path)
    main([str(path), "--to", str(tmp_path / "model.onnx")])
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": images().numpy()}), strict=True))
    assert set(found) == {"features", "attention", "logits"}
    for name, expected in ours(path).items():
        torch.testing.assert_close(torch.from_numpy(found[name]), expected, rtol=1e-4, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["recipe"] == "contrastive-attn-teacher"


def test_a_program_of_torch_export_needs_none_of_this_project(tmp_path):
    path = checkpoint(tmp_path, classes=None)
    main([str(path), "--to", str(tmp_path / "model.pt2")])
    torch.save(images(), tmp_path / "images")
    code = (
        "import io, sys, torch; found = torch.export.load('model.pt2').module()(torch.load('images'));"
        "assert not [name for name in sys.modules if name.startswith(('trainer', 'common'))];"
        "torch.save(found, 'found')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    found, expected = torch.load(tmp_path / "found"), ours(path)
    assert found.keys() == expected.keys() == {"features", "attention"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    extra = {"metadata.json": ""}
    torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra)
    assert json.loads(extra["metadata.json"])["step"] == "7"


def test_the_way_to_load_it_is_told(tmp_path, capsys):
    path = checkpoint(tmp_path, norm="group")
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    line = capsys.readouterr().out.splitlines()[1].strip()
    scope = {"torch": torch, "torchvision": torchvision}
    exec(line, scope)
    assert scope["model"].fc.out_features == len(CLASSES)
    assert isinstance(scope["model"].bn1, nn.GroupNorm)


@pytest.mark.parametrize("name", ["weights.pt", "weights", "weights.safetensors.zip"])
def test_other_endings_are_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors, \.onnx, \.pt2"):
        main([str(tmp_path / "missing"), "--to", str(tmp_path / name)])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/w\.safetensors: Is a directory"):
        main([str(checkpoint(tmp_path)), "--to", str(tmp_path / "w.safetensors")])


def test_a_folder_that_is_not_there_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"--to .*: expected a folder that is there, found no .*/no/such; make it"):
        main([str(tmp_path / "missing"), "--to", str(tmp_path / "no/such/w.onnx")])


@pytest.mark.parametrize("name", recipe_names())
def test_the_weights_of_every_recipe_are_a_resnets(tmp_path, name):
    path = checkpoint(tmp_path, recipe=name)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    network = torchvision.models.resnet18(num_classes=len(weights["fc.bias"]))
    network.load_state_dict(weights, strict=True)
    trained = load_trained(str(path)).model
    features, scores = pooled_by(network)
    with torch.no_grad():
        torch.testing.assert_close(features, trained.backbone(images()).pooled, rtol=1e-5, atol=1e-5)
        if isinstance(trained.block, nn.Identity):
            torch.testing.assert_close(scores, trained.logits(images()), rtol=1e-4, atol=1e-4)
        else:  # the probe knows masked features alone
            assert not weights["fc.weight"].any()


def test_contracams_map_which_depends_on_other_images_is_left_out(tmp_path):
    assert ours(checkpoint(tmp_path, recipe="contrastive-contracam")).keys() == {"features", "logits"}
    assert ours(checkpoint(tmp_path, recipe="contrastive-attn-block")).keys() == {"features", "attention", "logits"}
