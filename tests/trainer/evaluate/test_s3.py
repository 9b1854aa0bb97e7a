"""Evaluation with checkpoint, training data, images and report in S3, on a real S3 server."""

import json

import pytest

from tests.support.evaluation import evaluate, read_results

FLAGS = ("--suite=linear,retrieval", "--queries=5", "--probe-epochs=2")


@pytest.mark.usefixtures("s3_environment")
def test_evaluation_in_s3_gives_the_results_of_local_files(checkpoints, training_data, val, tmp_path, s3, bucket):
    client = s3.client()
    files = {"run/checkpoints/best": checkpoints[1]}
    files |= {f"shards/{path.name}": path for path in training_data.iterdir() if path.is_file()}
    files |= {f"val/{path.parent.name}/{path.name}": path for path in val.rglob("*.jpg")}
    for key, path in files.items():
        client.upload_file(str(path), bucket, key)
    root = f"s3://{bucket}"
    data = [f"--train={root}/shards", f"--val={root}/val"]
    page = evaluate([f"{root}/run/checkpoints/best"], f"{root}/report", *FLAGS, *data)
    assert page == f"{root}/report/index.html"
    results = json.loads(client.get_object(Bucket=bucket, Key="report/results.json")["Body"].read())
    evaluate(checkpoints[1:], tmp_path / "report", *FLAGS, f"--train={training_data}", f"--val={val}")
    [(name, expected)] = read_results(tmp_path / "report").items()
    assert results[name]["linear"] == expected["linear"]
    assert results[name]["retrieval"] == expected["retrieval"]
    assert b"At a glance" in client.get_object(Bucket=bucket, Key="report/index.html")["Body"].read()
