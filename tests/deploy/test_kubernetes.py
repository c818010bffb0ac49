"""What is deployed on Kubernetes is what KubeRay and Kubernetes take, and what a run needs."""

import json
import re
from copy import deepcopy
from typing import Any

import pytest
import yaml

from pipelines.pretrain import parse
from tests.deploy.kubernetes import MANIFESTS, ROOT, definition, faults, manifests, part, pods

_SPOT = {"gke-spot", "capacityType", "capacity-type", "scalesetpriority"}


def _cluster() -> dict[str, Any]:
    [cluster] = manifests("raycluster.yaml")
    spec: dict[str, Any] = cluster["spec"]
    return spec


def _job() -> dict[str, Any]:
    [job] = manifests("rayjob.yaml")
    spec: dict[str, Any] = job["spec"]
    return spec


def _seconds(pod: dict[str, Any]) -> int:
    """How long a pod stays after it is told to go."""
    command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    return int(" ".join(command).rsplit("sleep ", 1)[1])


@pytest.mark.parametrize(("file", "kind"), [("raycluster", "RayCluster"), ("rayjob", "RayJob")])
def test_manifests_fit_kuberays_definitions(file: str, kind: str) -> None:
    [manifest] = manifests(f"{file}.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert faults(manifest, definition(kind)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("authOption", {"mode": "token"}),
        ("authOptions", {"mode": "password"}),
        ("headGroupSpec.template.spec.terminationGracePeriodSecond", 5),
        ("headGroupSpec.template.spec.containers", [{"image": "without-a-name"}]),
        ("workerGroupSpecs", [{"groupName": "gpu", "minReplicas": "none"}]),
    ],
)
def test_a_slip_is_seen(path: str, value: object) -> None:
    [manifest] = deepcopy(manifests("raycluster.yaml"))
    place = manifest["spec"]
    *way, last = path.split(".")
    for step in way:
        place = place[step]
    place[last] = value
    assert faults(manifest, definition("RayCluster"))


def test_support_fits_what_the_definitions_say_of_pods_volumes_and_services() -> None:
    schema = definition("RayCluster")
    service, redis = manifests("support.yaml")
    template = "spec.headGroupSpec.template"
    volume = f"{template}.spec.volumes.[].ephemeral.volumeClaimTemplate.spec"
    assert faults(service["spec"], part(schema, "spec.headGroupSpec.headService.spec")) == []
    assert faults(redis["spec"]["template"]["spec"], part(schema, f"{template}.spec")) == []
    [data] = redis["spec"]["volumeClaimTemplates"]
    assert faults(data["spec"], part(schema, volume)) == []
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert _cluster()["gcsFaultToleranceOptions"]["redisAddress"] == address
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]


def test_a_jobs_cluster_is_the_cluster() -> None:
    assert _job()["rayClusterSpec"] == _cluster()


def test_rays_version_is_that_of_the_lock() -> None:
    locked = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert [str(_cluster()["rayVersion"])] == locked


def test_a_token_is_demanded_and_no_secret_is_written_down() -> None:
    assert _cluster()["authOptions"] == {"mode": "token", "secretName": "bt-ray-token"}
    page = (ROOT / "docs" / "cluster.md").read_text()
    text = "".join(file.read_text() for file in MANIFESTS.glob("*.yaml"))
    assert "kind: Secret" not in text
    named = r"(?:secretName: |secretKeyRef: {name: |secretRef: {name: )([\w-]+)"
    for name in set(re.findall(named, text)):
        assert f"create secret generic {name} " in page, name


def test_no_pod_runs_as_root_and_each_has_shared_memory_and_the_keys() -> None:
    for name, pod in pods(_cluster()):
        assert pod["securityContext"]["runAsNonRoot"], name
        [container] = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory", name
        assert {"secretRef": {"name": "bt-ray-object-store"}} in container["envFrom"], name
        # KubeRay's autoscaler of version 2 starts pods anew, not containers.
        assert "restartPolicy" not in pod


def test_gpus_are_of_the_spot_market_and_nothing_else_is() -> None:
    for name, pod in pods(_cluster()):
        affinity = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        rules = [
            rule for term in affinity["nodeSelectorTerms"] for rule in term["matchExpressions"]
        ]
        assert {rule["key"].split("/")[1] for rule in rules} == _SPOT
        assert {rule["operator"] for rule in rules} == {"In" if name == "gpu" else "NotIn"}
        # In one term all rules must hold; of several terms one.
        assert len(affinity["nodeSelectorTerms"]) == (len(rules) if name == "gpu" else 1)
        has_gpu = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
        assert has_gpu == (name == "gpu")
    [_, gpu] = _cluster()["workerGroupSpecs"]
    assert gpu["minReplicas"] == 0
    assert gpu["maxReplicas"] * 8 == 32


def test_pods_stay_while_a_run_saves() -> None:
    env = yaml.safe_load(_job()["runtimeEnvYAML"])["env_vars"]
    wait_s = int(env["RAY_JOB_STOP_WAIT_TIME_S"])
    for name, pod in pods(_cluster()):
        assert _seconds(pod) < pod["terminationGracePeriodSeconds"], name
        if name != "gpu":
            assert _seconds(pod) > wait_s > 3, name


def test_the_jobs_command_is_one_that_the_program_takes() -> None:
    job = _job()
    interpreter, flag, module, *arguments = job["entrypoint"].split()
    assert (interpreter, flag, module) == ("python", "-m", "pipelines.pretrain")
    settings = parse(arguments).settings
    assert settings.storage == "s3://my-bucket/runs"
    assert settings.data.train.startswith("s3://")
    assert settings.scaling.wait_minutes > 0
    [driver, gpu] = _cluster()["workerGroupSpecs"]
    offered = json.loads(json.loads(driver["rayStartParams"]["resources"]))
    assert json.loads(job["entrypointResources"]).keys() == offered.keys()
    assert settings.scaling.workers == gpu["maxReplicas"] * 8
