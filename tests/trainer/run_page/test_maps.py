"""Tests of the model's maps on the page of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.saliency import cc
from common.storage.run_folder import RunFolder
from tests.support.data.datasets import make_dataset
from tests.support.training import CPU
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.model.spectral_residual import spectral_residual
from trainer.recipes import build, recipe_names
from trainer.run_page.maps import (
    MAP_SIDE,
    MAPS_FILE,
    EpochMaps,
    keep_shown,
    load_maps,
    plan_epochs,
    predict_maps,
    save_maps,
    show_targets,
)
from trainer.run_page.samples import PageSample, read_page_samples

IMAGE_SIZE = 40


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[PageSample]:
    folder = make_dataset(tmp_path_factory.mktemp("discs"), [9])
    return read_page_samples(open_dataset(str(folder)), 0, IMAGE_SIZE)


@pytest.mark.parametrize("name", recipe_names())
def test_maps_are_those_in_evaluation_mode_and_the_model_is_unchanged(name: str, samples: list[PageSample]) -> None:
    model = build(name, TrainConfig(backbone="resnet18", image_size=IMAGE_SIZE), 4).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    found = predict_maps(model, samples, CPU)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[arg-type]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    if name == "contrastive-contracam":
        assert found is None
        return
    assert found is not None
    images = torch.stack([sample.clean for sample in samples]).float() / 255
    with torch.no_grad():
        expected = model.eval().attention(images)
    assert expected is not None
    teacher = torch.from_numpy(np.stack([sample.attention for sample in samples])).float() / 255
    assert torch.allclose(torch.from_numpy(found.correlations), cc(expected, teacher), atol=1e-6)
    assert found.maps.shape == (8, MAP_SIDE, MAP_SIDE)
    assert (found.maps.max(axis=(1, 2)) == 255).all()
    small = F.interpolate(expected[:, None], (MAP_SIDE, MAP_SIDE), mode="bilinear", antialias=True)[:, 0]
    levels = small / small.amax((1, 2), keepdim=True) * 255
    assert (torch.from_numpy(found.maps) - levels).abs().max() <= 0.51


@pytest.mark.parametrize(
    "name", ["contrastive-attn-teacher", "contrastive-attn-cotrain", "contrastive-self-mask", "supervised"]
)
def test_maps_of_the_teacher_are_shown_unless_the_recipe_has_another_target(
    name: str, samples: list[PageSample]
) -> None:
    model = build(name, TrainConfig(backbone="resnet18", image_size=IMAGE_SIZE), 4)
    shown = show_targets(model, samples, CPU)
    assert all(np.array_equal(*pair) for pair in zip(attention(shown), attention(samples), strict=True))


def test_targets_of_controls_are_shown(samples: list[PageSample]) -> None:
    config = TrainConfig(backbone="resnet18", image_size=IMAGE_SIZE)
    permuted = attention(show_targets(build("contrastive-attn-permuted", config, 4), samples, CPU))
    assert sorted(map(bytes, permuted)) == sorted(map(bytes, attention(samples)))
    assert not any(np.array_equal(*pair) for pair in zip(permuted, attention(samples), strict=True))
    images = torch.stack([sample.clean for sample in samples]).float() / 255
    lowlevel = attention(show_targets(build("contrastive-attn-lowlevel", config, 4), samples, CPU))
    expected = F.interpolate(spectral_residual(images)[:, None], (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")[:, 0]
    assert cc(torch.from_numpy(np.stack(lowlevel)), expected).min() > 0.99


def attention(samples: Sequence[PageSample]) -> list[np.ndarray]:
    return [sample.attention for sample in samples]


@pytest.mark.parametrize("epochs", [1, 2, 3, 6, 12, 90, 400, 1000])
def test_epochs_on_the_page_are_few_and_include_the_first_and_the_last(epochs: int) -> None:
    planned = plan_epochs(epochs)
    assert {0, 1, epochs} <= planned
    assert max(planned) == epochs
    shown: dict[int, EpochMaps] = {}
    maps = EpochMaps(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.float32))
    for epoch in range(epochs + 1):
        shown = keep_shown({**shown, epoch: maps}, epochs)
        assert len(shown) <= 6
        assert list(shown) == sorted({*(planned & set(range(epoch))), epoch})


def test_saved_maps_are_loaded_without_those_of_later_epochs(tmp_path: Path) -> None:
    folder, generator = RunFolder(str(tmp_path)), np.random.default_rng(0)
    assert load_maps(folder, 9) == {}
    maps = {
        epoch: EpochMaps(generator.integers(0, 256, (8, 56, 56)).astype(np.uint8), generator.random(8, np.float32))
        for epoch in (0, 1, 4)
    }
    save_maps(folder, maps)
    loaded = load_maps(folder, 3)
    assert list(loaded) == [0, 1]
    for epoch, found in loaded.items():
        assert np.array_equal(found.maps, maps[epoch].maps)
        assert np.array_equal(found.correlations, maps[epoch].correlations)
    assert (tmp_path / MAPS_FILE).stat().st_size < 100_000
