import re

import pytest
import torch

from common.settings import load_settings
from tests.support.data.datasets import make_dataset
from trainer import export
from trainer.card import model_card
from trainer.config import TrainConfig, TrainSettings
from trainer.job import run_training
from trainer.recipes import describe_recipe, recipe_names


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_code_examples_of_the_card_load_the_weights_of_the_run(tmp_path, monkeypatch, norm):
    data = make_dataset(tmp_path / "data", [8], classes=2)
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1", f"--norm={norm}"]
    result = run_training(load_settings(TrainSettings, [f"--data={data}", f"--output={tmp_path / 'run'}", *small]))
    text = (tmp_path / "run/README.md").read_text()
    assert f"| loss | {result['loss']:.4g} |" in text
    assert "8 photographs, 1 epoch in batches of 8" in text
    assert describe_recipe("contrastive-attn-teacher") in text.replace("\n", " ")
    monkeypatch.chdir(tmp_path / "run")
    [command] = re.findall(r"```bash\npython -m trainer.export (.*?)\n```", text)
    assert export.main(command.split()) == 0
    scope = {"images": torch.rand(2, 3, 32, 32), "torch": torch}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, scope)
    assert scope["attention"].shape == (2, 32, 32)


def test_every_recipe_is_described_in_one_sentence():
    for name in recipe_names():
        assert re.fullmatch(r"[A-Z][^\n]{20,}\.", describe_recipe(name)), name


def test_card_of_a_run_without_classes_and_attention_says_so():
    config = TrainConfig(recipe="contrastive-self-mask")
    result = {"samples": 8, "dataset": "0" * 64, "chance": 0.5, "loss": 1.0}
    text = model_card(config, "A sentence.", result)
    assert "| classes | none |" in text
    assert "| attention targets | none |" in text
