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
import timm
import torch
import torchvision
from torch import nn

from common.errors import UserError
from common.training import save_checkpoint
from tests.support.documents import python_example
from tests.support.jobs import ROOT
from trainer.checkpoint import load_trained
from trainer.config import TrainConfig
from trainer.export import main
from trainer.formats import InferenceModel
from trainer.recipes import build, recipe_names

CLASSES = ["red", "lime", "blue"]
SHAPE = (2, 3, 80, 64)
SIDES = ((32, 32), (33, 33), (64, 64), (96, 64))  # at 32 the last stage has a single position
SHAPES = [(batch, 3, *sides) for batch in (1, 2, 5) for sides in SIDES]
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def write_checkpoint(folder, classes=CLASSES, **changes):
    """Write a checkpoint of an untrained model whose norms are not near the identity, as after a long training."""
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


def random_images(shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def run_checkpoint(path, *shapes):
    """Return the outputs of the checkpoint's model for random images of each shape."""
    model = InferenceModel(load_trained(str(path)).model)
    with torch.no_grad():
        return [model(random_images(shape)) for shape in shapes]


def run_torchvision(network):
    """Return pooled features and class scores of a torchvision ResNet for the random images, normalized."""
    features = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: features.append(output.flatten(1)))
    with torch.no_grad():
        scores = network.eval()((random_images() - MEAN) / STD)
    return features[0], scores


@pytest.mark.parametrize(
    ("backbone", "norm"), [("resnet18", "batch"), ("resnet34", "batch"), ("resnet50", "batch"), ("resnet50", "group")]
)
def test_torchvision_loads_the_weights_strictly_and_computes_the_same(tmp_path, backbone, norm):
    path = write_checkpoint(tmp_path, backbone=backbone, norm=norm)
    assert main([str(path), "--to", str(tmp_path / "weights.safetensors")]) == 0
    norm_layer = None if norm == "batch" else lambda channels: nn.GroupNorm(32, channels)
    network = getattr(torchvision.models, backbone)(num_classes=len(CLASSES), norm_layer=norm_layer)
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    features, scores = run_torchvision(network)
    [expected] = run_checkpoint(path, SHAPE)
    torch.testing.assert_close(features, expected["features"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, expected["logits"], rtol=1e-5, atol=1e-5)


def test_timm_loads_the_weights_strictly_and_computes_the_same(tmp_path):
    path, weights = write_checkpoint(tmp_path, backbone="resnet50"), tmp_path / "weights.safetensors"
    assert main([str(path), "--to", str(weights)]) == 0
    network = timm.create_model("resnet50", num_classes=len(CLASSES)).eval()
    network.load_state_dict(safetensors.torch.load_file(weights), strict=True)
    placeholders = {"1000": str(len(CLASSES)), "weights.safetensors": str(weights)}
    scope = {}
    exec(python_example(ROOT / "labeler/CONSUMERS.md", "timm", **placeholders), scope)
    mean, std = (torch.tensor(network.default_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    [expected] = run_checkpoint(path, SHAPE)
    for model in (network, scope["model"].eval()):
        with torch.no_grad():
            logits = model((random_images() - mean) / std)
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-5, atol=1e-5)


def test_fc_is_zero_with_1000_classes_without_a_probe(tmp_path):
    path = write_checkpoint(tmp_path, classes=None)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    network = torchvision.models.resnet18()
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    features, scores = run_torchvision(network)
    [expected] = run_checkpoint(path, SHAPE)
    torch.testing.assert_close(features, expected["features"], rtol=1e-5, atol=1e-5)
    assert scores.shape == (2, 1000)
    assert not scores.any()


def test_metadata_state_the_origin_of_the_weights_and_their_input(tmp_path):
    path = write_checkpoint(tmp_path)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    with safetensors.safe_open(tmp_path / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(metadata["mean"]) == pytest.approx(MEAN.flatten().tolist())
    assert json.loads(metadata["std"]) == pytest.approx(STD.flatten().tolist())
    assert json.loads(metadata["classes"]) == CLASSES
    assert (metadata["recipe"], metadata["architecture"]) == ("contrastive-attn-teacher", "torchvision resnet18")


def test_onnx_graph_computes_the_same_for_any_batch_size_and_image_size(tmp_path):
    path = write_checkpoint(tmp_path, image_size=32)
    main([str(path), "--to", str(tmp_path / "model.onnx")])
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for shape, expected in zip(SHAPES, run_checkpoint(path, *SHAPES), strict=True):
        arrays = session.run(None, {"images": random_images(shape).numpy()})
        outputs = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
        assert outputs.keys() == expected.keys() == {"features", "attention", "logits"}
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["recipe"] == "contrastive-attn-teacher"


@pytest.mark.parametrize(
    "recipe", ["contrastive-attn-teacher", pytest.param("contrastive-attn-block", marks=pytest.mark.slow)]
)
def test_exported_program_computes_the_same_for_any_batch_size_and_image_size_without_this_project(tmp_path, recipe):
    path = write_checkpoint(tmp_path, classes=None, image_size=32, recipe=recipe)
    main([str(path), "--to", str(tmp_path / "model.pt2")])
    torch.save([random_images(shape) for shape in SHAPES], tmp_path / "batches")
    code = (
        "import io, sys, torch; model = torch.export.load('model.pt2').module();"
        "outputs = [model(images) for images in torch.load('batches')];"
        "assert not [name for name in sys.modules if name.startswith(('trainer', 'common'))];"
        "torch.save(outputs, 'outputs')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    for outputs, expected in zip(torch.load(tmp_path / "outputs"), run_checkpoint(path, *SHAPES), strict=True):
        assert outputs.keys() == expected.keys() == {"features", "attention"}
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)
    extra = {"metadata.json": ""}
    torch.export.load(io.BytesIO((tmp_path / "model.pt2").read_bytes()), extra_files=extra)
    assert json.loads(extra["metadata.json"])["step"] == "7"


def test_printed_loading_code_makes_a_network_that_fits_the_weights(tmp_path, capsys):
    path = write_checkpoint(tmp_path, norm="group")
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    line = capsys.readouterr().out.splitlines()[1].strip()
    scope = {"torch": torch, "torchvision": torchvision}
    exec(line, scope)
    assert scope["model"].fc.out_features == len(CLASSES)
    assert isinstance(scope["model"].bn1, nn.GroupNorm)


@pytest.mark.parametrize("name", ["weights.pt", "weights", "weights.safetensors.zip"])
def test_unknown_suffix_raises_an_error_before_the_checkpoint_is_read(tmp_path, name):
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors, \.onnx, \.pt2"):
        main([str(tmp_path / "missing"), "--to", str(tmp_path / name)])


def test_file_that_cannot_be_written_is_named_in_the_error(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/w\.safetensors: Is a directory"):
        main([str(write_checkpoint(tmp_path)), "--to", str(tmp_path / "w.safetensors")])


def test_missing_folder_raises_an_error_before_the_checkpoint_is_read(tmp_path):
    with pytest.raises(UserError, match=r"--to .*: expected an existing folder, found no .*/no/such; create it first"):
        main([str(tmp_path / "missing"), "--to", str(tmp_path / "no/such/w.onnx")])


@pytest.mark.parametrize("name", recipe_names())
def test_torchvision_loads_the_weights_of_every_recipe(tmp_path, name):
    path = write_checkpoint(tmp_path, recipe=name)
    main([str(path), "--to", str(tmp_path / "weights.safetensors")])
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    network = torchvision.models.resnet18(num_classes=len(weights["fc.bias"]))
    network.load_state_dict(weights, strict=True)
    trained = load_trained(str(path)).model
    features, scores = run_torchvision(network)
    with torch.no_grad():
        torch.testing.assert_close(features, trained.backbone(random_images()).pooled, rtol=1e-5, atol=1e-5)
        if isinstance(trained.block, nn.Identity):
            torch.testing.assert_close(scores, trained.logits(random_images()), rtol=1e-4, atol=1e-4)
        else:  # the probe was trained on features after the block, which the file does not contain
            assert not weights["fc.weight"].any()


def test_map_of_contracam_is_not_exported(tmp_path):
    """It depends on the other images of a batch."""
    [contracam] = run_checkpoint(write_checkpoint(tmp_path, recipe="contrastive-contracam"), SHAPE)
    assert contracam.keys() == {"features", "logits"}
    [block] = run_checkpoint(write_checkpoint(tmp_path, recipe="contrastive-attn-block"), SHAPE)
    assert block.keys() == {"features", "attention", "logits"}
