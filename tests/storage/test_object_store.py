"""Object stores are set up from the URIs that pyarrow takes, and from the environment."""

from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

from bt_ray.errors import StorageError
from bt_ray.storage.object_store import build_object_store

_AT = "region=eu-west-3&endpoint_override=127.0.0.1:9000&scheme=http"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def known(uri: str) -> dict[str, Any]:
    store = build_object_store(uri)
    return {**store.config, "prefix": store.prefix, **(store.client_options or {})}


def test_keys_and_the_server_are_those_of_the_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://of.the.environment")
    of = known(f"s3://me:open%2Fsesame@bucket/some/runs?{_AT}")
    assert of["bucket"] == "bucket"
    assert of["prefix"] == "some/runs"
    assert of["access_key_id"] == "me"
    assert of["secret_access_key"] == "open/sesame"
    assert of["endpoint"] == "http://127.0.0.1:9000"
    assert of["region"] == "eu-west-3"
    assert of["allow_http"] in (True, "true")


def test_else_the_environment_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    of = known("s3://bucket?region=eu-west-3")
    assert "access_key_id" not in of, "obstore itself asks the environment"
    assert of["endpoint"] == "https://store.example"
    assert of["prefix"] is None
    assert of["allow_http"] in (False, "false")


def test_else_the_file_of_keys_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n"
        "[lab]\naws_access_key_id = me\naws_secret_access_key = 100%sesame\naws_session_token = t\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    of = known(f"s3://bucket/runs?{_AT}")
    keys = of["access_key_id"], of["secret_access_key"], of["session_token"]
    assert keys == ("me", "100%sesame", "t")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert "access_key_id" not in known(f"s3://bucket/runs?{_AT}")


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_an_emulator_of_google_s_storage_is_asked_without_keys(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = "endpoint_override=127.0.0.1:9000&scheme=http"
    of = known(f"{scheme}://anonymous@bucket/some/runs?{at}")
    assert of["base_url"] == "http://127.0.0.1:9000"
    assert of["prefix"] == "some/runs"
    assert of["allow_http"] in (True, "true")
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://127.0.0.1:9001")
    assert known("gs://anonymous@bucket/runs")["base_url"] == "http://127.0.0.1:9001"


def test_what_cannot_be_set_up_is_named_without_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="s3:// or gs://"):
        build_object_store("file:///somewhere")

    def refuse(*_: object, **options: object) -> S3Store:
        raise ValueError(f"cannot use {options}")

    monkeypatch.setattr("bt_ray.storage.object_store.S3Store", refuse)
    with pytest.raises(StorageError, match="s3://bucket/runs cannot be set up") as error:
        build_object_store(f"s3://me:0pensesame@bucket/runs?{_AT}")
    assert "0pensesame" not in str(error.value)
