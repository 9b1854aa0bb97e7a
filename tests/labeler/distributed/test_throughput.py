import pytest

from common.errors import Reason
from common.manifest import Failure, ShardRecord
from labeler.distributed.throughput import BOTTLENECKS, find_bottleneck, format_throughput, measure_throughput


def record(host: str = "a", samples: int = 90, failed: int = 10) -> ShardRecord:
    failures = [Failure(key=str(key), uri=f"{key}.jpg", reason=Reason.CORRUPT, message="") for key in range(failed)]
    return ShardRecord(
        shard="train-000000.tar",
        sha256="0" * 64,
        bytes=1,
        samples=samples,
        failures={Reason.CORRUPT: failed},
        failed=failures,
        seconds={"teacher": 30.0, "wait": 10.0, "fetch": 5.0, "decode": 6.0, "encode": 7.0, "total": 50.0},
        host=host,
        device="cpu",
        attempt=1,
    )


def test_report_sums_over_records() -> None:
    report = measure_throughput([record("a"), record("b")], 40.0, 2, 0, None)
    assert (report["images"], report["failed"], report["images_per_second"]) == (200, 20, 5.0)
    assert (report["workers"], report["machines"], report["waited"]) == (2, 2, 0.2)
    assert report["seconds_by_phase"]["total"] == 100.0
    assert report["projected"] is None


def test_projection_is_at_the_rate_of_busy_workers() -> None:
    """Two workers on two machines label an image per 0.5 s of a worker: 7,200,000 images take 500 hours."""
    report = measure_throughput([record("a"), record("b")], 1000.0, 2, 7_200_000, 3.0)
    assert report["projected"] == {"images": 7_200_000, "hours": 500.0, "machine_hours": 1000.0, "cost": 3000.0}


def test_run_without_images_has_no_rate_and_no_lines() -> None:
    report = measure_throughput([], 0.0, 0, 100, 1.0)
    assert (report["images_per_second"], report["waited"], report["projected"]) == (None, None, None)
    assert format_throughput(report) == []


def test_lines_count_one_worker_and_one_machine() -> None:
    rate, phases, bottleneck, projection = format_throughput(measure_throughput([record()], 40.0, 1, 100, None))
    assert rate == "100 images in 40.0 s: 2.5 images/s (1 worker on 1 machine, start-up included)"
    assert phases.startswith("workers' time: wait 20%, teacher 60% (")
    assert bottleneck.startswith("bottleneck: teacher; the teacher computes nearly all the time")
    assert phases.endswith("in threads: fetch 5.0 s, decode 6.0 s, encode 7.0 s")
    assert projection.endswith("workers always busy: 50 seconds on 1 machine, 50 machine seconds")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (100, "50 seconds on 1 machine, 50 machine seconds, cost 0.01"),
        (7_200, "1 hour on 1 machine, 1 machine hour, cost 1.00"),
        (12_000, "1.67 hours on 1 machine, 1.67 machine hours, cost 1.67"),
        (3_000, "25 minutes on 1 machine, 25 machine minutes, cost 0.42"),
        (1_280_000, "178 hours on 1 machine, 178 machine hours, cost 177.78"),
        (12_800_000, "1,778 hours on 1 machine, 1,778 machine hours, cost 1,777.78"),
    ],
)
def test_projected_hours_are_shown_in_a_readable_unit(images: int, expected: str) -> None:
    *_, projection = format_throughput(measure_throughput([record()], 40.0, 1, images, 1.0))
    assert projection.endswith(f": {expected}")


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"teacher": 5.0, "wait": 4.0, "decode": 9.0}, "teacher"),
        ({"teacher": 3.0, "wait": 4.0, "decode": 9.0, "fetch": 2.0}, "decode"),
        ({"teacher": 3.0, "wait": 4.0, "decode": 9.0, "fetch": 20.0}, "fetch"),
        ({"teacher": 3.0, "device_decode": 4.0, "fetch": 20.0}, "device_decode"),
        ({"teacher": 3.0, "wait_encode": 4.0, "wait": 2.0}, "encode"),
        ({"teacher": 3.0, "write": 2.0, "commit": 2.0}, "write"),
        ({}, None),
    ],
)
def test_bottleneck_is_what_takes_most_of_the_workers_time(phases: dict[str, float], expected: str | None) -> None:
    assert find_bottleneck(phases) == expected
    assert expected is None or expected in BOTTLENECKS
