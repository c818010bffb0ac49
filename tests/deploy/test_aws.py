"""The `ray up` file is one that Ray and EC2 take."""

import json
from pathlib import Path
from typing import Any

import botocore.session
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]


def _file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "aws.yaml").read_text())
    return content


def _faults(content: dict[str, Any]) -> list[str]:
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    return [error.message for error in Draft7Validator(schema).iter_errors(content)]


def test_it_fits_rays_schema() -> None:
    assert _faults(_file()) == []
    assert _faults({**_file(), "idle_timeout_minuts": 5})


def test_nodes_are_what_ec2_can_be_asked_for() -> None:
    shape = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances")
    for kind in _file()["available_node_types"].values():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, shape.input_shape)
        assert not report.has_errors(), report.generate_report()
        assert asked.keys() <= shape.input_shape.members.keys()


def test_gpu_nodes_are_spot_and_come_when_they_are_wanted() -> None:
    content = _file()
    head, gpu = (content["available_node_types"][kind] for kind in ("head", "gpu"))
    assert content["head_node_type"] == "head"
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["min_workers"] == 0
    assert gpu["max_workers"] <= content["max_workers"]


def test_every_node_shows_the_token_and_reaches_the_bucket() -> None:
    content = _file()
    assert content["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_MODE=token" in (ROOT / "deploy" / "Dockerfile.volta").read_text()
    for kind in content["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]["Arn"].endswith("bt-ray-s3")
