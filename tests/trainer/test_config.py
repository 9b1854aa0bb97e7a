"""Runs with settings that other tests leave at their defaults: each must change what it names, and nothing else."""

import functools
import json
import shutil

import pytest
import torch
import torch._dynamo.utils
from torch import nn

from common.errors import UserError
from common.settings import load_settings
from tests.support.data.datasets import make_dataset
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.job import run_training
from trainer.objectives import AttentionObjective, ContrastiveObjective

MODEL_METRICS = ("contrastive", "kld", "nss", "probe_loss")


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [24])


def train(discs, output, *flags):
    """Train two steps; return the metrics of each, and the trained model."""
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=12", "--epochs=1", "--learning-rate=0.5"]
    given = [f"--data={discs}", f"--output={output}", "--warmup-epochs=0", *small, *flags]
    run_training(load_settings(TrainSettings, given))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], load_trained(f"{output}/checkpoints/last").model


@pytest.fixture(scope="module")
def default_steps(discs, tmp_path_factory):
    return train(discs, tmp_path_factory.mktemp("runs") / "default")[0]


@pytest.mark.parametrize("select", ["channel_mean", "channel_max"])
def test_select_changes_the_map_that_is_read_out(discs, tmp_path, default_steps, select):
    steps, model = train(discs, tmp_path / "run", f"--select={select}")
    assert model.objective(AttentionObjective).readout.select == select
    assert steps[0]["contrastive"] == pytest.approx(default_steps[0]["contrastive"], rel=1e-4)
    assert steps[0]["kld"] != pytest.approx(default_steps[0]["kld"], rel=1e-3)


def test_head_layers_is_the_number_of_linear_layers_of_the_projection_head(discs, tmp_path, default_steps):
    steps, model = train(discs, tmp_path / "run", "--head-layers=3")
    layers = list(model.objective(ContrastiveObjective).head.layers)
    linear = [module for module in layers if isinstance(module, nn.Linear)]
    assert [module.weight.shape for module in linear] == [(512, 512), (512, 512), (128, 512)]
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert [type(module) for module in layers] == [*kinds, *kinds, *kinds[:2]]
    assert steps[0]["contrastive"] != pytest.approx(default_steps[0]["contrastive"], rel=1e-3)


def test_bfloat16_trains_almost_like_float32(discs, tmp_path, default_steps):
    steps, model = train(discs, tmp_path / "run", "--precision=bfloat16")
    for actual, expected in zip(steps, default_steps, strict=True):
        assert actual["loss"] == pytest.approx(expected["loss"], rel=0.1)
        assert actual["loss"] != expected["loss"]
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert all(weights.isfinite().all() for weights in model.parameters())


def check_compiled_run(discs, tmp_path, default_steps):
    """Train with --compile; check that the network was compiled, and computes what it computes otherwise."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    steps, _ = train(discs, tmp_path / "run", "--compile")
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    for actual, expected in zip(steps, default_steps, strict=True):
        assert [actual[name] for name in MODEL_METRICS] == pytest.approx(
            [expected[name] for name in MODEL_METRICS], rel=0.02
        )


def test_network_can_be_traced_as_one_graph_by_torch_compile(discs, tmp_path, default_steps, monkeypatch):
    """Without the compilation of the graph, which takes a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    check_compiled_run(discs, tmp_path, default_steps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_network_trains_like_the_uncompiled_one(discs, tmp_path, default_steps, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    check_compiled_run(discs, tmp_path, default_steps)


@pytest.mark.parametrize("cache", ["disk", "disk:", "ram", ""])
def test_unknown_cache_is_refused(cache, tmp_path):
    with pytest.raises(UserError, match=r"--cache.*expected none, memory or disk:FOLDER"):
        load_settings(TrainSettings, [f"--cache={cache}", f"--output={tmp_path}"])


@pytest.mark.parametrize(("size", "expected"), [("200GB", 2e11), ("1.5 tb", 1.5e12), ("3M", 3e6), ("1000", 1000)])
def test_size_of_the_cache_has_a_unit(size, expected, tmp_path):
    flags = [f"--cache=disk:{tmp_path}/cache", f"--cache-size={size}"]
    cache = load_settings(TrainSettings, flags).shard_cache("s3://bucket/data")
    assert (cache.size, cache.folder) == (expected, tmp_path / "cache")


def test_size_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--cache-size.*expected a size such as 200GB, found 'much'"):
        load_settings(TrainSettings, ["--cache-size=much"])


def test_cache_is_for_data_sets_in_s3_and_by_default_takes_half_of_the_free_space(tmp_path):
    settings = load_settings(TrainSettings, [f"--cache=disk:{tmp_path}/new/cache"])
    assert settings.shard_cache("local/data") is None
    assert settings.shard_cache("s3://bucket/data").size == pytest.approx(shutil.disk_usage(tmp_path).free / 2, rel=0.1)
    assert load_settings(TrainSettings, []).shard_cache("s3://bucket/data") is None
