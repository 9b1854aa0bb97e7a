"""Checkpoints, shards, pictures and report in a real S3 store."""

import json

import pytest

from common.settings import load_settings
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.job import run_evaluation


def evaluate(checkpoint, train, val, output):
    flags = ["--suite=linear,retrieval", f"--train={train}", f"--val={val}", "--queries=5", "--probe-epochs=2"]
    settings = load_settings(EvaluateSettings, [checkpoint, *flags, f"--output={output}", "--readers=0"])
    settings.check()
    return run_evaluation(settings)


@pytest.mark.usefixtures("s3_environment")
def test_all_may_lie_in_a_store(checkpoints, training_data, val, tmp_path, s3, bucket):
    client = s3.client()
    files = {"run/checkpoints/best": checkpoints[1]}
    files |= {f"shards/{path.name}": path for path in training_data.iterdir() if path.is_file()}
    files |= {f"val/{path.parent.name}/{path.name}": path for path in val.rglob("*.jpg")}
    for key, path in files.items():
        client.upload_file(str(path), bucket, key)
    place = f"s3://{bucket}"
    page = evaluate(f"{place}/run/checkpoints/best", f"{place}/shards", f"{place}/val", f"{place}/report")
    assert page == f"{place}/report/index.html"
    found = json.loads(client.get_object(Bucket=bucket, Key="report/results.json")["Body"].read())
    evaluate(checkpoints[1], training_data, val, tmp_path / "report")
    expected = json.loads((tmp_path / "report/results.json").read_text())
    [name] = expected
    assert found[name]["linear"] == expected[name]["linear"]
    assert found[name]["retrieval"] == expected[name]["retrieval"]
    assert b"At a glance" in client.get_object(Bucket=bucket, Key="report/index.html")["Body"].read()
