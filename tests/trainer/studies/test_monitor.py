"""Tests of the measurements while a model trains: nearest neighbors and RankMe."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.launch import Rank
from common.settings import load_settings
from common.storage.s3_client import get_client
from tests.support.data.datasets import COLORS, disc_sample, make_dataset, overwrite_member
from tests.support.faults import FaultProxy
from tests.support.ranks import run_ranks
from tests.support.s3_server import S3Server
from tests.support.training import CPU, make_settings, make_trainer
from trainer.config import TrainSettings
from trainer.data.dataset import open_dataset
from trainer.job import run_training
from trainer.studies.monitor import draw_bank, effective_rank, gather_rows, make_monitor

CLASSES, IMAGES = 4, 14


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), [10, 14, 12])


@pytest.fixture(scope="module")
def val(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other discs of the same classes, in class folders, and a file that is no image."""
    folder = tmp_path_factory.mktemp("val")
    names = open_dataset(str(discs)).class_names()
    for number in range(IMAGES):
        sample = disc_sample(1000 + number, CLASSES)
        path = folder / names[sample.class_index] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sample.jpeg)
    (folder / names[0] / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(("images", "channels", "rank"), [(40, 8, 3), (40, 8, 8), (6, 30, 6)])
def test_effective_rank_of_equal_singular_values_is_their_number(images: int, channels: int, rank: int) -> None:
    left, right = (torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64))[0] for size in (images, channels))
    assert effective_rank((left @ right.T).float()) == pytest.approx(rank, rel=1e-3)


def test_effective_rank_is_that_of_rankme() -> None:
    features = torch.randn(50, 12) * torch.linspace(0.1, 3, 12)
    shares = torch.linalg.svdvals(features) / torch.linalg.svdvals(features).sum() + 1e-7
    assert effective_rank(features) == pytest.approx(torch.exp(-(shares * shares.log()).sum()).item(), rel=1e-4)


def test_bank_is_drawn_by_seed_and_limited(discs: Path) -> None:
    data = open_dataset(str(discs))
    assert draw_bank(data, 0).samples == 36
    banks = [draw_bank(data, seed, most=24) for seed in range(20)]
    assert all(10 <= bank.samples <= 24 for bank in banks)
    assert len({bank.shards for bank in banks}) > 1
    assert draw_bank(data, 3, most=24) == banks[3]
    assert len(draw_bank(data, 0, most=1).shards) == 1


def test_measurements_are_logged_after_every_second_and_the_last_epoch(discs: Path, val: Path, tmp_path: Path) -> None:
    run_training(make_settings(discs, tmp_path / "run", monitor=val, monitor_every=2, epochs=3))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    means = {line["epoch"]: line["means"] for line in lines if "means" in line}
    names = {"knn_20", "knn_200", "rankme"}
    assert [names <= means[epoch].keys() for epoch in (1, 2, 3)] == [False, True, True]
    assert all(not names & means[1].keys() for name in names)
    assert 0 <= means[3]["knn_20"] <= 1
    assert 1 <= means[3]["rankme"] <= 36
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["knn_20"] == means[3]["knn_20"]
    card = (tmp_path / "run/README.md").read_text()
    assert "accuracy of 20 nearest neighbors" in card
    assert "RankMe" in card
    page = (tmp_path / "run/index.html").read_text()
    for epoch in (2, 3):
        for label, name in (("20 nearest neighbors", "knn_20"), ("RankMe", "rankme")):
            assert f"<title>{label}, epoch {epoch}: {means[epoch][name]:.4g}</title>" in page


@pytest.mark.parametrize(
    ("flags", "last", "size"),
    [(["--recipe=supervised", "--data=other", "--image-size=32"], 90, 32), ([], 12, 64)],  # of the recipe, of the demo
)
def test_last_epoch_and_image_size_may_be_defaults_of_the_recipe_or_the_demo(
    flags: list[str], last: int, size: int, discs: Path, val: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(TrainSettings, [f"--monitor={val}", "--monitor-every=40", *flags])
    monitor = make_monitor(settings, open_dataset(str(discs)), Rank(0, 1, CPU))
    assert monitor is not None
    model, sizes = make_trainer(discs)[0].model, []
    features = model.features
    monkeypatch.setattr(model, "features", lambda pixels: sizes.append(pixels.shape[-1]) or features(pixels))
    assert not monitor(last - 1, model)
    assert monitor(last, model)
    assert set(sizes) == {size}


def test_monitor_does_not_change_the_training(discs: Path, val: Path, tmp_path: Path) -> None:
    losses = []
    for name, changes in (("with", {"monitor": val}), ("without", {})):
        run_training(make_settings(discs, tmp_path / name, epochs=2, **changes))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0] == losses[1]


def measure(data: Path, val: Path, rank: int, world_size: int) -> dict[str, float]:
    place = Rank(rank, world_size, CPU)
    trainer, _ = make_trainer(data, rank, world_size, norm="group")
    monitor = make_monitor(make_settings(data, data / "run", monitor=val), open_dataset(str(data)), place)
    assert monitor is not None
    return monitor(1, trainer.model)


def test_ranks_with_different_numbers_of_images_measure_what_one_does(val: Path, tmp_path: Path) -> None:
    """More training images than the 200 nearest, so that they are chosen among those of both ranks."""
    data = make_dataset(tmp_path, [10, 140, 62], radius=0.04)
    expected = measure(data, val, 0, 1)
    assert 0.25 < expected["knn_20"] < expected["knn_200"] < 1
    for found in run_ranks(2, measure, data, val):
        assert found == pytest.approx(expected, rel=1e-5)


def test_ranks_without_any_image_measure_what_one_process_does(val: Path, tmp_path: Path) -> None:
    """The only shard and the only readable image are those of the first of three ranks."""
    data, few = make_dataset(tmp_path / "data", [24]), tmp_path / "val"
    for number, name in enumerate(sorted(open_dataset(str(data)).class_names())):
        (few / name).mkdir(parents=True)
        first = min((val / name).glob("*[0-9].jpg"))
        (few / name / "0.jpg").write_bytes(b"no image" if number else first.read_bytes())
    expected = measure(data, few, 0, 1)
    for found in run_ranks(3, measure, data, few):
        assert found == pytest.approx(expected, rel=1e-5)


def gather_numbered_rows(counts: list[int], rank: int, world_size: int) -> list[list[int]]:
    rows = torch.full((counts[rank], 2), rank)
    assert gather_rows(rows[:, 0], world_size).tolist() == gather_rows(rows, world_size)[:, 0].tolist()
    return gather_rows(rows, world_size).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("counts", [[3, 3, 3], [0, 5, 2], [1, 0, 0], [0, 0, 0]])
def test_rows_of_all_ranks_are_gathered_in_the_order_of_the_ranks(counts: list[int]) -> None:
    expected = [[rank, rank] for rank, count in enumerate(counts) for _ in range(count)]
    assert run_ranks(3, gather_numbered_rows, counts) == [expected] * 3


def test_folder_with_other_classes_is_refused_before_anything_is_written(
    discs: Path, val: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(val, tmp_path / "other")
    (other / COLORS[0]).rename(other / "chartreuse")
    with pytest.raises(UserError, match=r"--monitor .*other"):
        run_training(make_settings(discs, tmp_path / "run", monitor=other))
    assert not (tmp_path / "run/config.json").exists()


def test_data_without_classes_cannot_be_monitored(val: Path, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [12, 12], classes=None)
    with pytest.raises(UserError, match=r"--monitor: the samples of .* have no classes"):
        run_training(make_settings(data, tmp_path / "run", monitor=val))


def test_damaged_training_image_is_skipped_with_skip_damaged(val: Path, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [12, 12])
    overwrite_member(data, "train-000000.tar", "000000003", "jpg")
    settings, model = make_settings(data, tmp_path / "run", monitor=val), make_trainer(data)[0].model
    for skip_damaged in (False, True):
        settings = settings.model_copy(update={"skip_damaged": skip_damaged})
        monitor = make_monitor(settings, open_dataset(str(data)), Rank(0, 1, CPU))
        assert monitor is not None
        if skip_damaged:
            assert monitor(1, model)
        else:
            with pytest.raises(UserError, match="000000003 cannot be read"):
                monitor(1, model)


@pytest.mark.usefixtures("s3_environment")
def test_only_the_first_epoch_reads_shards_from_s3_if_they_are_cached_on_disk(
    discs: Path, val: Path, s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in discs.iterdir():
        s3.client().upload_file(str(path), bucket, f"data/{path.name}")
    reads = []
    with FaultProxy(s3) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        get_client.cache_clear()
        for epochs in (1, 3):
            proxy.requests.clear()
            cache, output = f"disk:{tmp_path / f'cache-{epochs}'}", tmp_path / f"run-{epochs}"
            settings = {"epochs": epochs, "warmup_epochs": 0, "cache": cache, "monitor": str(val)}
            run_training(make_settings(f"s3://{bucket}/data", output, **settings))
            reads.append(sorted(request.key for request in proxy.requests if request.key.endswith(".tar")))
    assert len(set(reads[0])) == 3
    assert len(reads[0]) == len(reads[1])
