"""Object stores that write on conditions, set up by the same URIs that pyarrow takes.

pyarrow writes to S3 and Google Cloud Storage, but cannot say "only if nobody was there before";
obstore can. Keys come from the URI, else from the environment, else from where obstore finds those
of the machine's role.
"""

import os
from configparser import ConfigParser, Error
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import pyarrow.fs
from obstore.store import GCSStore, S3Store

from bt_ray.data.location import locate, public_name
from bt_ray.errors import StorageError
from bt_ray.redaction import redact

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, GCSConfig, RetryConfig, S3Config

SCHEMES = ("s3", "gs", "gcs")
"""Kinds of URIs whose storage `build_object_store` opens."""
_GCS_EMULATORS = ("CLOUD_STORAGE_EMULATOR_ENDPOINT", "GOOGLE_BASE_URL")
_NOBODY = "anonymous"
"""pyarrow's name of a user without keys: what emulators of Google's storage are asked by."""
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


def build_object_store(uri: str) -> S3Store | GCSStore:
    """The folder at `uri`: names of objects are relative to it.

    Raises: StorageError if obstore cannot be set up so, DataError if pyarrow cannot.
    """
    filesystem, path = locate(uri)
    bucket, _, folder = path.partition("/")
    parts = urlsplit(uri)
    try:
        if isinstance(filesystem, pyarrow.fs.S3FileSystem):
            return S3Store(
                bucket,
                prefix=folder or None,
                config=_s3(parts, filesystem.region),
                client_options=_client(_endpoint_of_s3(parts)),
                retry_config=_RETRIES,
            )
        if isinstance(filesystem, pyarrow.fs.GcsFileSystem):
            return GCSStore(
                bucket,
                prefix=folder or None,
                config=_gcs(parts),
                client_options=_client(_endpoint_of_gcs(parts)),
                retry_config=_RETRIES,
            )
    except Exception as error:  # obstore documents no kind for what it refuses here
        reason = redact(next(iter(str(error).splitlines()), type(error).__name__), uri)
        raise StorageError(
            f"The storage {public_name(uri)} cannot be set up ({reason}); see to its URI, and to "
            "the AWS_… or GOOGLE_… variables of the environment."
        ) from error
    raise StorageError(
        f"The storage {public_name(uri)} is no object store of a known kind; "
        "give a URI that starts with s3:// or gs://."
    )


def _client(endpoint: str) -> "ClientConfig":
    """How servers are asked: soon enough for a heartbeat to be tried again."""
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=3),
        "timeout": timedelta(seconds=8),
    }


def _s3(parts: SplitResult, region: str) -> "S3Config":
    config: S3Config = {"region": region}
    if endpoint := _endpoint_of_s3(parts):
        config["endpoint"] = endpoint
    if parts.username:
        config["access_key_id"] = unquote(parts.username)
        config["secret_access_key"] = unquote(parts.password or "")
    elif "AWS_ACCESS_KEY_ID" not in os.environ:
        config.update(_profile())
    return config


def _gcs(parts: SplitResult) -> "GCSConfig":
    endpoint = _endpoint_of_gcs(parts)
    config: GCSConfig = {"base_url": endpoint} if endpoint else {}
    if parts.username == _NOBODY:
        config["bearer_token"] = _NOBODY  # obstore writes nothing without one
    return config


def _endpoint_of_s3(parts: SplitResult) -> str:
    """The address of the server, with http:// or https://; empty for that of AWS."""
    given = _endpoint(parts)
    return given or os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", ""))


def _endpoint_of_gcs(parts: SplitResult) -> str:
    found = (os.environ[name] for name in _GCS_EMULATORS if os.environ.get(name))
    endpoint = _endpoint(parts) or next(found, "")
    return endpoint if not endpoint or "://" in endpoint else f"http://{endpoint}"


def _endpoint(parts: SplitResult) -> str:
    options = parse_qs(parts.query)
    endpoint = options.get("endpoint_override", [""])[0].rstrip("/")
    if not endpoint or "://" in endpoint:
        return endpoint
    return f"{options.get('scheme', ['https'])[0]}://{endpoint}"


def _profile() -> "S3Config":
    """The keys that AWS_PROFILE names in the file of keys, which pyarrow reads and obstore not."""
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    profiles = ConfigParser(interpolation=None)
    try:
        profiles.read(file)
    except (OSError, Error):
        return {}
    name = os.environ.get("AWS_PROFILE", "default")
    if not profiles.has_option(name, "aws_access_key_id"):
        return {}
    keys = profiles[name]
    config: S3Config = {
        "access_key_id": keys["aws_access_key_id"],
        "secret_access_key": keys.get("aws_secret_access_key", ""),
    }
    if "aws_session_token" in keys:
        config["session_token"] = keys["aws_session_token"]
    return config
