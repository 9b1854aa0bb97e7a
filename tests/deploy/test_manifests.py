"""Static checks of the files in deploy/ against the programs that read them: KubeRay, Ray, Grafana, Docker and ours."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from labeler.config import LabelSettings
from labeler.distributed import metrics as labeler_metrics
from labeler.distributed.resources import default_gpu_share
from tests.deploy import crd
from trainer import run_metrics
from trainer.config import TrainSettings
from trainer.data.sampler import rank_slots

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = ["rayjob-labeler.yaml", "rayjob-trainer.yaml"]
QUANTITY = re.compile(r"[1-9]\d*(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|PRIVATE KEY"
    r"|(SECRET_ACCESS_KEY|SESSION_TOKEN|AUTH_TOKEN|ACCESS_KEY_ID|PASSWORD)\"?\s*[:=]\s*(?!\.\.\.|\$)[^\s]"
)


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture(params=MANIFESTS)
def job(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def cluster(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]


def head(job: dict[str, Any]) -> dict[str, Any]:
    return cluster(job)["headGroupSpec"]


def workers(job: dict[str, Any]) -> dict[str, Any]:
    (group,) = cluster(job)["workerGroupSpecs"]
    return group


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods of the cluster."""
    return [head(job)["template"]["spec"], workers(job)["template"]["spec"]]


def all_pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pods(job), job["spec"]["submitterPodTemplate"]["spec"]]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for pod in pods(job) for container in pod["containers"]]


def flags(entrypoint: str) -> dict[str, str]:
    """Parse the command line of one of our programs, in which every flag has a value, into {setting: value}."""
    words = shlex.split(entrypoint)
    assert words[:2] == ["python", "-m"]
    names, values = words[3::2], words[4::2]
    assert len(names) == len(values)
    assert all(name.startswith("--") for name in names)
    return {name.removeprefix("--").replace("-", "_"): value for name, value in zip(names, values, strict=True)}


class TestRayJobs:
    def test_has_only_known_fields_and_all_required_ones(self, job: dict[str, Any]) -> None:
        assert crd.find_problems(job) == []

    def test_is_a_ray_job_with_the_tested_version_of_ray(self, job: dict[str, Any]) -> None:
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        assert f"ray=={cluster(job)['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()

    def test_shuts_down_the_cluster_and_does_not_repeat_a_mistake_on_another(self, job: dict[str, Any]) -> None:
        spec = job["spec"]
        assert spec["submissionMode"] == "K8sJobMode"
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0
        assert spec["backoffLimit"] == 0
        assert {pod["restartPolicy"] for pod in all_pods(job)} == {"Never"}

    def test_pods_meet_the_restricted_pod_security_standard(self, job: dict[str, Any]) -> None:
        for pod in all_pods(job):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
            assert {kind for volume in pod.get("volumes", []) for kind in volume} <= {"name", "emptyDir"}
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }

    def test_autoscalers_do_not_evict_the_head(self, job: dict[str, Any]) -> None:
        annotations = head(job)["template"]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"

    def test_head_has_no_cpus_or_gpus_for_workers(self, job: dict[str, Any]) -> None:
        assert head(job)["rayStartParams"]["num-cpus"] == "0"
        assert "nvidia.com/gpu" not in head(job)["template"]["spec"]["containers"][0]["resources"]["limits"]

    def test_cluster_requires_a_token(self, job: dict[str, Any]) -> None:
        assert cluster(job)["authOptions"] == {"mode": "token"}

    def test_workers_request_gpus_and_tolerate_the_taint_of_gpu_machines(self, job: dict[str, Any]) -> None:
        pod = workers(job)["template"]["spec"]
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        resources = pod["containers"][0]["resources"]
        assert int(resources["limits"]["nvidia.com/gpu"]) >= 1
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]

    def test_workers_use_all_gpus(self, job: dict[str, Any]) -> None:
        group = workers(job)
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus = int(limits["nvidia.com/gpu"])
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        settings = flags(job["spec"]["entrypoint"])
        is_labeler = "labeler.run" in job["spec"]["entrypoint"]
        share = default_gpu_share(int(limits["cpu"]) / gpus) if is_labeler else 1
        assert int(settings["workers"]) * share == group["replicas"] * gpus

    def test_quantities_are_well_formed(self, job: dict[str, Any]) -> None:
        found = [
            quantity
            for container in containers(job)
            for kind in ("requests", "limits")
            for quantity in container["resources"][kind].values()
        ] + [volume["emptyDir"]["sizeLimit"] for pod in pods(job) for volume in pod["volumes"]]
        assert [quantity for quantity in found if not QUANTITY.fullmatch(quantity)] == []

    def test_requests_do_not_exceed_limits(self, job: dict[str, Any]) -> None:
        for container in containers(job):
            for name, quantity in container["resources"]["requests"].items():
                limit = container["resources"]["limits"][name]
                assert parse_quantity(quantity) <= parse_quantity(limit), name

    def test_object_store_fits_into_shared_memory_and_shared_memory_into_memory(self, job: dict[str, Any]) -> None:
        for group, pod in zip([head(job), workers(job)], pods(job), strict=True):
            shared = next(volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shared-memory")
            assert shared["medium"] == "Memory"
            memory = parse_quantity(pod["containers"][0]["resources"]["limits"]["memory"])
            assert (
                int(group["rayStartParams"]["object-store-memory"]) <= parse_quantity(shared["sizeLimit"]) <= memory / 2
            )

    def test_head_and_workers_have_the_same_s3_configuration(self, job: dict[str, Any]) -> None:
        environments = [{item["name"]: item.get("value") for item in container["env"]} for container in containers(job)]
        assert environments[0] == environments[1]
        assert environments[0]["AWS_REGION"] == environments[0]["AWS_DEFAULT_REGION"]
        assert containers(job)[0]["envFrom"] == containers(job)[1]["envFrom"]

    def test_tmpdir_is_on_the_scratch_volume(self, job: dict[str, Any]) -> None:
        for pod, container in zip(pods(job), containers(job), strict=True):
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert set(mounts.values()) == set(volumes)
            (scratch,) = [item["value"] for item in container["env"] if item["name"] == "TMPDIR"]
            assert "medium" not in volumes[mounts[scratch]]["emptyDir"]

    def test_runs_as_the_user_of_the_image(self, job: dict[str, Any]) -> None:
        user = instructions("USER")[-1].split(":")[0]
        assert {str(pod["securityContext"]["runAsUser"]) for pod in all_pods(job)} == {user}

    def test_all_containers_have_the_same_tagged_image(self, job: dict[str, Any]) -> None:
        (image,) = {container["image"] for pod in all_pods(job) for container in pod["containers"]}
        assert re.search(r":\d+\.\d+\.\d+$", image)

    def test_labeler_is_called_with_valid_flags(self) -> None:
        entrypoint = load("rayjob-labeler.yaml")["spec"]["entrypoint"]
        assert "python -m labeler.run " in entrypoint
        settings = flags(entrypoint)
        assert set(settings) - set(LabelSettings.model_fields) == set()
        LabelSettings(**settings)  # validates the types of the values

    def test_trainer_is_called_with_valid_flags(self) -> None:
        entrypoint = load("rayjob-trainer.yaml")["spec"]["entrypoint"]
        assert "python -m trainer.run " in entrypoint
        settings = flags(entrypoint)
        assert set(settings) - set(TrainSettings.model_fields) == set()
        chosen = TrainSettings(**settings)  # validates the types of the values
        assert rank_slots(chosen.batch_size, chosen.workers, 0)


def parse_quantity(quantity: str) -> float:
    """Parse a Kubernetes quantity."""
    match = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", quantity)
    assert match
    factor = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(match[1]) * factor[match[2]]


class TestFieldCheck:
    def test_reports_unknown_missing_and_wrongly_typed_fields(self) -> None:
        job = load("rayjob-labeler.yaml")
        job["spec"]["backofLimit"] = 1
        cluster(job)["workerGroupSpecs"][0]["replicas"] = "4"
        del cluster(job)["workerGroupSpecs"][0]["groupName"]
        del pods(job)[0]["containers"][0]["image"]
        head(job)["rayStartParams"] = {"num-cpus": 0}
        assert sorted(problem.split(": ")[0] for problem in crd.find_problems(job)) == [
            "spec.backofLimit",
            "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus",
            "spec.rayClusterSpec.headGroupSpec.template.spec.containers[].image",
            "spec.rayClusterSpec.workerGroupSpecs[].groupName",
            "spec.rayClusterSpec.workerGroupSpecs[].replicas",
        ]

    def test_knows_the_variants_that_comments_offer(self) -> None:
        job = load("rayjob-labeler.yaml")
        job["spec"]["activeDeadlineSeconds"] = 86400
        for pod in all_pods(job):
            pod["imagePullSecrets"] = [{"name": "registry"}]
            pod["serviceAccountName"] = "imagenet-attn"
        assert crd.find_problems(job) == []


class TestClusterFile:
    def test_is_valid_to_ray(self) -> None:
        config = prepare_config(load("cluster.yaml"))
        validate_config(config)

    def test_head_has_no_cpus_and_only_workers_are_spot_instances(self) -> None:
        types = load("cluster.yaml")["available_node_types"]
        assert types["head"]["resources"] == {"CPU": 0}
        assert "InstanceMarketOptions" not in types["head"]["node_config"]
        assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert types["gpu"]["min_workers"] <= types["gpu"]["max_workers"] <= load("cluster.yaml")["max_workers"]

    def test_machines_have_instance_profiles_and_no_files_are_copied(self) -> None:
        config = load("cluster.yaml")
        assert all(
            "IamInstanceProfile" in node_type["node_config"] for node_type in config["available_node_types"].values()
        )
        assert config["file_mounts"] == {}

    def test_setup_needs_only_the_image(self) -> None:
        config = prepare_config(load("cluster.yaml"))
        commands = ["setup_commands", "head_setup_commands", "worker_setup_commands"]
        assert [command for name in commands for command in config[name]] == []
        assert config["docker"]["image"] == containers(load("rayjob-labeler.yaml"))[0]["image"]


class TestRuntimeEnvironment:
    def test_is_valid_to_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        RuntimeEnv(**load("runtime-env.yaml"))

    def test_excludes_files_that_no_job_needs(self) -> None:
        assert {"/runs", "/.venv", "/data", "/.git"} <= set(load("runtime-env.yaml")["excludes"])

    def test_sets_both_region_variables_to_the_same_value(self) -> None:
        variables = load("runtime-env.yaml")["env_vars"]
        assert variables["AWS_REGION"] == variables["AWS_DEFAULT_REGION"]


class TestBoard:
    @pytest.fixture
    def board(self) -> dict[str, Any]:
        return json.loads((DEPLOY / "grafana.json").read_text())

    def panels(self, board: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the panels, without the headings of rows."""
        return [panel for panel in board["panels"] if panel["type"] != "row"]

    def expressions(self, board: dict[str, Any]) -> list[str]:
        return [target["expr"] for panel in self.panels(board) for target in panel["targets"]]

    def test_panels_are_complete_and_their_ids_titles_and_queries_are_unique(self, board: dict[str, Any]) -> None:
        panels = self.panels(board)
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert len({panel["title"] for panel in panels}) == len(panels)
        assert len(panels) < len(board["panels"])
        for panel in panels:
            assert panel["type"] in {"timeseries", "stat", "gauge", "bargauge"}
            assert panel["description"]
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])

    def test_panels_do_not_overlap(self, board: dict[str, Any]) -> None:
        cells = [
            (x, y)
            for area in (panel["gridPos"] for panel in board["panels"])
            for x in range(area["x"], area["x"] + area["w"])
            for y in range(area["y"], area["y"] + area["h"])
        ]
        assert len(cells) == len(set(cells))

    def test_can_be_imported_with_any_prometheus(self, board: dict[str, Any]) -> None:
        assert board["schemaVersion"] >= 39
        assert board.get("id") is None  # otherwise an import would ask to replace another board
        source = {"type": "prometheus", "uid": "${datasource}"}
        assert all(panel["datasource"] == source for panel in self.panels(board))
        assert all(target["datasource"] == source for panel in self.panels(board) for target in panel["targets"])
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        assert variables["datasource"]["type"] == "datasource"
        assert variables["datasource"]["query"] == "prometheus"
        queries = [variable for variable in variables.values() if variable["type"] == "query"]
        assert {variable["name"] for variable in queries} == {"namespace", "cluster", "dataset", "run"}
        assert all(variable["datasource"] == source for variable in queries)

    def test_queries_use_exactly_the_exported_metrics(self, board: dict[str, Any]) -> None:
        used = set(re.findall(r"\bray_((?:labeler|trainer)_\w+)", json.dumps(board)))
        assert used == {*labeler_metrics.METRIC_DESCRIPTIONS, *run_metrics.METRIC_DESCRIPTIONS}

    def test_counters_are_queried_as_rates_or_over_the_whole_range(self, board: dict[str, Any]) -> None:
        for text in self.expressions(board):
            for use in re.findall(r"(\w*)\(?\bray_labeler_\w+\{[^}]*\}(\[[^\]]*\])?", text):
                assert use in {("rate", "[2m]"), ("max_over_time", "[$__range]")}, text

    def test_queries_filter_by_what_is_selected(self, board: dict[str, Any]) -> None:
        for text in self.expressions(board):
            assert text.count("ray_labeler_") == text.count('dataset=~"$dataset"')
            assert text.count("ray_trainer_") == text.count('run=~"$run"')
            metrics = len(re.findall(r"\bray_\w+\{", text))
            assert metrics == text.count('namespace=~"$namespace"') == text.count('ray_io_cluster=~"$cluster"')
            assert text.count("(") == text.count(")")
            assert not re.search(r"\bjob\b", text)


def instructions(name: str) -> list[str]:
    """Return the arguments of each occurrence of an instruction in the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#"))).splitlines()
    return [line.split(None, 1)[1] for line in lines if line.split(None, 1)[:1] == [name]]


class TestImage:
    def test_base_image_is_pinned_and_has_a_supported_python(self) -> None:
        (base,) = instructions("FROM")
        assert re.fullmatch(r"python:3\.1[1-9]\.\d+-slim-\w+", base)

    def test_final_user_is_not_root(self) -> None:
        assert instructions("USER")[-1].split(":")[0] not in {"root", "0"}

    def test_installs_the_tested_versions_before_copying_the_sources(self) -> None:
        text = (DEPLOY / "Dockerfile").read_text()
        assert "--constraint constraints.txt '.[teacher,eval,export]'" in text
        assert text.index("constraints.txt '.[teacher,eval,export]'") < text.index("COPY common")

    def test_has_the_programs_that_kuberay_and_ray_up_call(self) -> None:
        packages = next(line for line in instructions("RUN") if "apt-get install" in line).split()
        assert {"wget", "rsync", "openssh-client"} <= set(packages)

    def test_build_context_is_exactly_what_is_copied(self) -> None:
        copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
        lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        assert rules[0] == "*"
        assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
        assert all((ROOT / name).exists() for name in copied)

    def test_all_packages_of_the_project_are_copied(self) -> None:
        copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
        assert {folder.parent.name for folder in ROOT.glob("*/__init__.py")} <= copied


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_file_holds_no_secret(path: Path) -> None:
    assert SECRETS.search(path.read_text()) is None
