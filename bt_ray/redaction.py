"""Secrets kept out of what is shown and written: passwords and keys in URIs, and in texts.

A URI of a tracking server, a database or an object store may carry a user and a password, or keys
among its options (`?secret_key=…`). Whoever opens it needs them; no output, file, tag or log does.
"""

import re
from urllib.parse import parse_qsl, unquote, urlencode

_HARMLESS_OPTIONS = frozenset(
    {
        # of pyarrow's file systems
        "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "anonymous",
        "buffer_size", "check_directory_existence_before_creation", "default_bucket_location",
        "enable_tls", "endpoint_override", "project_id", "region", "replication",
        "retry_limit_seconds", "scheme", "smart_defaults", "tls_verify_server_certificate",
        # of databases
        "charset", "check_same_thread", "connect_timeout", "driver", "mode", "sslmode", "timeout",
        "uri",
    }
)  # fmt: skip
"""Options of URIs that may be shown; any other may hold a key."""
_USER_IS_THE_CONTAINER = ("abfs", "abfss", "wasb", "wasbs")
_PATHS_MAY_HOLD_AT = (
    "s3",
    "s3a",
    "s3n",
    "gs",
    "gcs",
    "file",
    "hdfs",
    "hf",
    *_USER_IS_THE_CONTAINER,
)
_URI = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>`|]+""")
_NAMED_SECRET = re.compile(
    r"""(?ix) ( (?:\b|_|-) (?: pass(?:word|wd|phrase)? | pwd | secret (?:[_-]?(?:access[_-]?)?key)?
    | (?:access|account|api|shared) [_-]? key (?:[_-]?id)? | token | credentials? | signature
    | sig ) ) ( \s*=\s*["']? | ["']\s*[:=]\s*["'] ) ([^\s&;,"'<>]+)"""
)
"""A key of an option, what stands between, its value."""
_FEWEST_CHARACTERS = 3
HIDDEN = "***"
"""Stands in a text where a secret stood."""


def without_credentials(uri: str) -> str:
    """`uri` without user, password and every option that may be a key; a plain path stays as it is.

    What is left opens the same place for whoever has the keys in the environment.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    place, _, options = _split_credentials(scheme.lower(), rest)[1].partition("?")
    user = _split_credentials(scheme.lower(), rest)[0].partition(":")[0]
    if user and scheme.lower() in _USER_IS_THE_CONTAINER:
        place = f"{user}@{place}"
    kept = [
        (key, value)
        for key, value in parse_qsl(options.partition("#")[0], keep_blank_values=True)
        if key.lower() in _HARMLESS_OPTIONS and "@" not in value
    ]
    return f"{scheme}://{place.partition('#')[0]}{'?' + urlencode(kept, safe=':/') if kept else ''}"


def redact(text: str, *uris: str) -> str:
    """`text` with each URI as `without_credentials` leaves it, and each named secret hidden.

    Args:
      uris: whose passwords and keys are hidden wherever they stand in the text.
    """
    for secret in sorted({s for uri in uris for s in _secrets_of(uri)}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _URI.sub(lambda found: without_credentials(found[0]), text)
    return _NAMED_SECRET.sub(rf"\1\2{HIDDEN}", text)


def _split_credentials(scheme: str, rest: str) -> tuple[str, str]:
    """What stands before a URI's host, without the @, and host, path and options.

    A password may hold a slash or an @ that should have been escaped: more is cut then.
    """
    options = _start_of_options(rest)
    before, after = rest[:options], rest[options:]
    host = re.split(r"[/?#]", before, maxsplit=1)[0]
    if "@" in host and scheme in _PATHS_MAY_HOLD_AT:
        cut = host.rindex("@")
    elif "@" in host or ("@" in before and ":" in host and not _has_port(scheme, host)):
        cut = before.rindex("@")
    else:
        return "", rest
    return before[:cut], before[cut + 1 :] + after


def _has_port(scheme: str, host: str) -> bool:
    return scheme in _PATHS_MAY_HOLD_AT and host.rpartition(":")[2].isdigit()


def _start_of_options(rest: str) -> int:
    """Where a URI's options begin: at its first `?` or `#` that no `@` of a host follows."""
    at = rest.rfind("@")
    for mark in re.finditer(r"[?#]", rest):
        if mark.start() > at or "=" in rest[mark.start() : at]:
            return mark.start()
    return len(rest)


def _secrets_of(uri: str) -> list[str]:
    """A URI's password and the values of options that may be keys, as written and unescaped."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return []
    credentials, place = _split_credentials(scheme.lower(), rest)
    user, _, password = credentials.partition(":")
    found = [password or ("" if scheme.lower() in _USER_IS_THE_CONTAINER else user)]
    for key, value in parse_qsl(place.partition("?")[2], keep_blank_values=True):
        if key.lower() not in _HARMLESS_OPTIONS:
            found.append(value)
    found += [unquote(secret) for secret in found]
    return [secret for secret in found if len(secret) >= _FEWEST_CHARACTERS]
