"""Schema of RayJob manifests: the fields of KubeRay's ray.io/v1 (1.5.1) and Kubernetes' core/v1 that are used here.

A type is a mapping from field names to types: a nested type, `[type]` for a list, `{}` for a mapping of arbitrary
strings, or a Python type for a plain value. REQUIRED lists the required fields by the path of their type.
"""

from typing import Any

Type = dict[str, Any]

QUANTITIES: Type = {"cpu": str, "memory": str, "ephemeral-storage": str, "nvidia.com/gpu": str}

SECCOMP_PROFILE: Type = {"type": str, "localhostProfile": str}

CONTAINER: Type = {
    "name": str,
    "image": str,
    "imagePullPolicy": str,
    "command": [str],
    "args": [str],
    "workingDir": str,
    "env": [{"name": str, "value": str, "valueFrom": {}}],
    "envFrom": [{"secretRef": {"name": str, "optional": bool}, "configMapRef": {"name": str, "optional": bool}}],
    "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool, "subPath": str}],
    "ports": [{"name": str, "containerPort": int}],
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "capabilities": {"drop": [str], "add": [str]},
        "privileged": bool,
        "readOnlyRootFilesystem": bool,
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "seccompProfile": SECCOMP_PROFILE,
    },
}

POD_TEMPLATE: Type = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [CONTAINER],
        "volumes": [
            {
                "name": str,
                "emptyDir": {"medium": str, "sizeLimit": str},
                "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            }
        ],
        "restartPolicy": str,
        "serviceAccountName": str,
        "nodeSelector": {},
        "tolerations": [{"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}],
        "securityContext": {
            "runAsNonRoot": bool,
            "runAsUser": int,
            "runAsGroup": int,
            "fsGroup": int,
            "seccompProfile": SECCOMP_PROFILE,
        },
        "hostNetwork": bool,
        "hostPID": bool,
        "hostIPC": bool,
        "imagePullSecrets": [{"name": str}],
        "terminationGracePeriodSeconds": int,
        "priorityClassName": str,
    },
}

HEAD_GROUP_SPEC: Type = {
    "template": POD_TEMPLATE,
    "headService": {},
    "enableIngress": bool,
    "resources": {},
    "labels": {},
    "rayStartParams": {},
    "serviceType": str,
}

WORKER_GROUP_SPEC: Type = {
    "suspend": bool,
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "resources": {},
    "labels": {},
    "rayStartParams": {},
    "template": POD_TEMPLATE,
    "scaleStrategy": {"workersToDelete": [str]},
    "numOfHosts": int,
}

RAY_CLUSTER_SPEC: Type = {
    "authOptions": {"mode": str},
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": {},
    "headServiceAnnotations": {},
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": {},
    "headGroupSpec": HEAD_GROUP_SPEC,
    "rayVersion": str,
    "workerGroupSpecs": [WORKER_GROUP_SPEC],
}

RAY_JOB_SPEC: Type = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": RAY_CLUSTER_SPEC,
    "submitterPodTemplate": POD_TEMPLATE,
    "metadata": {},
    "clusterSelector": {},
    "submitterConfig": {"backoffLimit": int},
    "managedBy": str,
    "deletionStrategy": {},
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": str,
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}

RAY_JOB: Type = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str, "labels": {}, "annotations": {}},
    "spec": RAY_JOB_SPEC,
}

# fields without which the API server refuses a manifest, by the end of the path of their type
REQUIRED = {
    "": ["apiVersion", "kind", "metadata", "spec"],
    "spec.rayClusterSpec": ["headGroupSpec"],
    "spec.rayClusterSpec.headGroupSpec": ["template", "rayStartParams"],
    "spec.rayClusterSpec.workerGroupSpecs[]": ["groupName", "minReplicas", "maxReplicas", "template", "rayStartParams"],
    "containers[]": ["name", "image"],
    "env[]": ["name"],
    "volumes[]": ["name"],
    "volumeMounts[]": ["name", "mountPath"],
}


def find_problems(value: Any, schema: Any = None, path: str = "") -> list[str]:
    """List the unknown fields, wrong types and missing fields of a RayJob, or of its part at `path`."""
    schema = RAY_JOB if schema is None else schema
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path}: expected a list"]
        return [problem for item in value for problem in find_problems(item, schema[0], f"{path}[]")]
    if isinstance(schema, type):
        matches = type(value) is schema or (schema is float and type(value) is int)
        return [] if matches else [f"{path}: expected {schema.__name__}, found {value!r}"]
    if not isinstance(value, dict):
        return [f"{path}: expected a mapping, found {value!r}"]
    required = [name for suffix, names in REQUIRED.items() for name in names if _path_matches(path, suffix)]
    found = [f"{path}.{name}: is missing" for name in required if name not in value]
    for name, item in value.items():
        inner = f"{path}.{name}" if path else str(name)
        if not schema:
            found += [] if isinstance(item, str | dict) else [f"{inner}: expected a string, found {item!r}"]
        elif name not in schema:
            found.append(f"{inner}: there is no such field")
        else:
            found += find_problems(item, schema[name], inner)
    return found


def _path_matches(path: str, suffix: str) -> bool:
    return path == suffix or (suffix != "" and path.endswith(f".{suffix}"))
