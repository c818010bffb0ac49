"""Manifests, held against published definitions of their kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"


def manifests(file: str) -> list[dict[str, Any]]:
    """The manifests of a file."""
    return list(yaml.safe_load_all((MANIFESTS / file).read_text()))


def definition(kind: str) -> dict[str, Any]:
    """What KubeRay publishes of a kind, version v1; the test is skipped where it is not there."""
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"needs {file.name}, a custom resource definition of KubeRay, in {SCHEMAS}")
    crd = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def part(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of what lies below: names between dots, `[]` for a list's items."""
    for step in path.split("."):
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    return schema


def faults(instance: object, schema: dict[str, Any]) -> list[str]:
    """What a server that is asked to be strict refuses: unknown fields, too."""
    errors = Draft202012Validator(strict(schema)).iter_errors(instance)
    return [f"{error.json_path}: {error.message}" for error in errors]


def strict(schema: Any) -> Any:
    """The schema in which an object has no other fields than those that it names."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and "type" in schema and not is_open:
        closed.setdefault("additionalProperties", False)
    return closed


def pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod specification of each group of a Ray cluster's nodes."""
    yield "head", spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]
