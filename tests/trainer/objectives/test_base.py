import pytest
import torch

from trainer.config import TrainConfig
from trainer.recipes import build, recipe_names

SIZE = (3, 3, 32, 40)


def model(recipe, classes=4, **changes):
    torch.manual_seed(0)
    return build(recipe, TrainConfig(recipe=recipe, backbone="resnet18", **changes), classes).eval()


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_gives_features_attention_and_logits_of_plain_images(recipe):
    made, images = model(recipe), torch.rand(SIZE)
    with torch.no_grad():
        features, attention, logits = made.features(images), made.attention(images), made.logits(images)
    assert features.shape == (3, 512)
    assert logits.shape == (3, 4)
    assert attention.shape == (3, 32, 40)
    assert (attention >= 0).all()
    assert attention.isfinite().all()


def test_without_classes_there_are_no_logits():
    assert model("contrastive", classes=None).logits(torch.rand(SIZE)) is None
