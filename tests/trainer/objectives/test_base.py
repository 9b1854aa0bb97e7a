import pytest
import torch

from trainer.config import TrainConfig
from trainer.recipes import build, recipe_names

SHAPE = (3, 3, 32, 40)  # of images


def make_model(recipe, classes=4, **changes):
    torch.manual_seed(0)
    return build(recipe, TrainConfig(recipe=recipe, backbone="resnet18", **changes), classes).eval()


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_computes_features_attention_and_logits(recipe):
    model, images = make_model(recipe), torch.rand(SHAPE)
    with torch.no_grad():
        features, attention, logits = model.features(images), model.attention(images), model.logits(images)
    assert features.shape == (3, 512)
    assert logits.shape == (3, 4)
    assert attention.shape == (3, 32, 40)
    assert (attention >= 0).all()
    assert attention.isfinite().all()


def test_model_without_classes_has_no_logits():
    assert make_model("contrastive", classes=None).logits(torch.rand(SHAPE)) is None
