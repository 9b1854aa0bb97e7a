import pytest
import safetensors.torch
import torch
import torchvision

from common.errors import UserError
from trainer.checkpoint import Trained, load_trained
from trainer.config import TrainConfig
from trainer.evaluate.models import make_names_unique, open_models, to_file_name
from trainer.formats import encode_torchvision_weights
from trainer.model.backbone import Backbone
from trainer.recipes import build


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a network of torchvision with random weights, and its weights file."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7).eval()
    path = tmp_path_factory.mktemp("plain") / "resnet18-abc.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_checkpoints_are_named_by_recipe_and_seed(checkpoints):
    models = open_models(checkpoints, None)
    assert [model.name for model in models] == ["contrastive seed 0", "contrastive-attn-teacher seed 0"]
    assert (models[0].image_size, models[0].channels, len(models[0].classes)) == (32, 512, 4)


def test_logits_of_features_are_the_models_logits_of_images(checkpoints):
    images = torch.rand(3, 3, 32, 32)
    for location, model in zip(checkpoints, open_models(checkpoints, None), strict=True):
        trained = load_trained(location).model
        with torch.no_grad():
            assert torch.equal(model.logits_of(model.network.features(images)), trained.logits(images))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_plain_weights_file_gives_torchvisions_network(plain, suffix):
    network, path = plain
    if suffix == ".safetensors":
        path = path.with_suffix(suffix)
        safetensors.torch.save_file(network.state_dict(), path)
    [model] = open_models([str(path)], "resnet18")
    assert (model.name, model.image_size, model.classes) == ("resnet18-abc", 224, None)
    images = torch.rand(2, 3, 64, 64)
    normalized = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        logits, expected = model.logits_of(model.network.features(images)), network(normalized)
        assert torch.allclose(logits, expected, atol=1e-5)
        assert model.network.attention(images).shape == (2, 2, 2)


def test_weights_without_a_classifier_have_no_logits(plain, tmp_path):
    weights = {name: w for name, w in plain[0].state_dict().items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "features.pth")
    [model] = open_models([str(tmp_path / "features.pth")], "resnet18")
    assert model.logits_of(torch.zeros(1, 512)) is None


def test_classifier_of_zeros_is_ignored(plain, tmp_path):
    zeros = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(plain[0].state_dict() | zeros, tmp_path / "zeros.pth")
    [model] = open_models([str(tmp_path / "zeros.pth")], "resnet18")
    assert model.logits_of(torch.zeros(1, 512)) is None


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_weights_in_checkpoints_of_other_training_programs_are_found(plain, tmp_path, wrapper):
    weights = {f"module.{name}": w for name, w in plain[0].state_dict().items()}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "wrapped.pth")
    [model] = open_models([str(tmp_path / "wrapped.pth")], "resnet18")
    assert torch.equal(model.network.classifier.weight, plain[0].fc.weight)


def test_pickled_network_is_refused_in_one_line(plain, tmp_path):
    torch.save(plain[0], tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"found a pickled torchvision\.models\.resnet\.ResNet, .* state_dict") as error:
        open_models([str(tmp_path / "whole.pth")], "resnet18")
    assert str(error.value).isprintable()


def test_backbone_that_contradicts_a_checkpoint_is_refused(plain, checkpoints):
    with pytest.raises(UserError, match=r"--backbone resnet50: .*best is a checkpoint of a resnet18; omit the flag"):
        open_models(checkpoints, "resnet50")
    assert len(open_models(checkpoints, "resnet18")) == 2


def test_backbone_applies_to_plain_weights_only(checkpoints, tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "plain.pth")
    models = open_models([checkpoints[0], str(tmp_path / "plain.pth")], "resnet34")
    assert [model.training["backbone"] for model in models] == ["resnet18", "resnet34"]


def test_files_that_cannot_be_evaluated_are_refused(plain, tmp_path, checkpoints):
    path = str(plain[1])
    with pytest.raises(UserError, match="a plain weights file; name its architecture with --backbone"):
        open_models([path], None)
    with pytest.raises(UserError, match=r"not the weights of torchvision's resnet50: .* name another --backbone"):
        open_models([path], "resnet50")
    with pytest.raises(UserError, match=r"absent: expected a checkpoint, .* found nothing that can be read"):
        open_models([str(tmp_path / "absent")], None)
    with pytest.raises(UserError, match=r"expected a checkpoint, .* found a folder"):
        open_models([str(tmp_path)], None)
    with pytest.raises(UserError, match="is given twice"):
        open_models([checkpoints[0], checkpoints[0]], None)
    (tmp_path / "broken").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"broken: expected a checkpoint .*, found text that begins with 'no weights'"):
        open_models([str(tmp_path / "broken")], None)


def test_repeated_names_are_extended_by_the_runs_folder_or_a_number():
    locations = ["runs/a/checkpoints/best", "runs/b/checkpoints/best", "s3://x/c/checkpoints/last"]
    assert make_names_unique(["x", "x", "y"], locations) == ["x a", "x b", "y"]
    same_folder = ["a/run/checkpoints/best", "b/run/checkpoints/best"]
    assert make_names_unique(["x", "x"], same_folder) == ["x run 1", "x run 2"]


def test_file_names_contain_no_unsafe_characters():
    assert to_file_name("contrastive seed 0/../x") == "contrastive-seed-0-..-x"


@pytest.mark.parametrize("stem_stride", [4, 2, 1])
def test_export_is_evaluated_with_the_stem_stride_that_it_notes(tmp_path, stem_stride):
    config = TrainConfig(recipe="contrastive", backbone="resnet18", stem_stride=stem_stride)
    trained = Trained(build("contrastive", config, 3).eval(), config, ["a", "b", "c"], 1, "")
    (tmp_path / "weights.safetensors").write_bytes(encode_torchvision_weights(trained))
    [model] = open_models([str(tmp_path / "weights.safetensors")], "resnet18")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = trained.model.features(images)
        assert torch.equal(model.network.features(images), features)
        torch.testing.assert_close(model.logits_of(features), trained.model.logits(images))


def test_export_with_group_norm_can_be_evaluated(tmp_path):
    backbone = Backbone("resnet18", "group").eval()
    torch.save(backbone.resnet.state_dict(), tmp_path / "group.pth")
    [model] = open_models([str(tmp_path / "group.pth")], "resnet18")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.network.features(images), backbone(images).pooled)
