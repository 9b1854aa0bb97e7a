import hashlib

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from tests.support.data.datasets import COLORS, make_dataset
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.job import run_training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished run of the recipe `contrastive`."""
    folder = tmp_path_factory.mktemp("runs")
    data = make_dataset(folder / "data", [8])
    flags = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1", "--recipe=contrastive"]
    run_training(load_settings(TrainSettings, [f"--data={data}", f"--output={folder / 'run'}", *flags]))
    return folder / "run"


def test_loaded_model_has_the_weights_settings_and_classes_of_the_checkpoint(run):
    trained = load_trained(f"{run}/checkpoints/best")
    assert (trained.config.recipe, trained.config.image_size, trained.step) == ("contrastive", 32, 1)
    assert trained.classes == list(COLORS[:4])
    assert trained.sha256 == hashlib.sha256((run / "checkpoints/best").read_bytes()).hexdigest()
    assert not trained.model.training
    saved = torch.load(run / "checkpoints/best", weights_only=True)["model"]
    assert all(torch.equal(saved[name], weights) for name, weights in trained.model.state_dict().items())


def test_other_files_raise_an_error_that_names_them(run, tmp_path):
    with pytest.raises(UserError, match=r"/checkpoints: expected a checkpoint, such as .*, found a folder"):
        load_trained(f"{run}/checkpoints")
    with pytest.raises(UserError, match="found nothing that can be read"):
        load_trained(f"{run}/checkpoints/first")
    with pytest.raises(UserError, match=r"result\.json: expected a checkpoint .*, found text that begins with"):
        load_trained(f"{run}/result.json")
    torch.save({"weights": 1}, tmp_path / "other")
    with pytest.raises(UserError, match=r"expected a checkpoint of trainer\.run, found another PyTorch file"):
        load_trained(f"{tmp_path}/other")
