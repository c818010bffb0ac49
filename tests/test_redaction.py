"""No password and no key of a URI is shown; the place that it names is."""

import pytest

from bt_ray.config import Settings, from_json, override, to_json
from bt_ray.config.flat import flatten
from bt_ray.data.location import public_name
from bt_ray.presets import preset
from bt_ray.redaction import redact, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:s3cret@host:5000/path", "http://host:5000/path"),
        ("https://s3cret@host/x", "https://host/x"),
        ("http://user:s3@cret/more@host:5000", "http://host:5000"),
        ("http://user:s3/cret?x@host:5", "http://host:5"),
        ("http://user:#s3cret@host", "http://host"),
        ("postgresql+psycopg2://u:s3%40cret@h/db?password=s3cret&sslmode=require",
         "postgresql+psycopg2://h/db?sslmode=require"),
        ("mysql://u:s3cret@h:port/x", "mysql://h:port/x"),
        ("s3://AKIA:s3/cr+et@bucket/p", "s3://bucket/p"),
        ("s3://AKIA:s3cret@bucket/models@v1?region=eu&secret_key=s3cret",
         "s3://bucket/models@v1?region=eu"),
        ("s3://bucket/p?endpoint_override=http%3A%2F%2Flocalhost%3A9000",
         "s3://bucket/p?endpoint_override=http://localhost:9000"),
        ("abfs://box:s3cret@account.dfs.core/p?sv=1&sig=s3cret", "abfs://box@account.dfs.core/p"),
        ("sqlite:////a b/[old] x/study.db", "sqlite:////a b/[old] x/study.db"),
        ("s3://bucket/x@y/z", "s3://bucket/x@y/z"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://host/a@b", "http://host/a@b"),
        ("postgresql://u:12/s3cret@host/db", "postgresql://host/db"),
        ("/plain/path@x:y", "/plain/path@x:y"),
    ],
)  # fmt: skip
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown
    assert "s3cret" not in public_name(uri)
    assert redact(f"cannot reach '{uri}'; try", uri) == f"cannot reach '{shown}'; try" or " " in uri


def test_secrets_in_a_text_are_hidden_and_words_are_not() -> None:
    text = "url: /x?token=s3cret&n=1 PASSWORD='s3cret', AWS_SECRET_ACCESS_KEY=s3cret, my s3cret"
    assert "s3cret" not in redact(text, "http://me:s3cret@host")
    plain = "Missing authentication token: see README; passed=3, compass=2, monkey=1, tokens: 12"
    assert redact(plain) == plain


def test_settings_are_written_and_compared_without_keys() -> None:
    def with_key(key: str) -> Settings:
        return override(preset("digits"), {"data.train": f"s3://me:{key}@bucket/x?region=eu"})

    assert "s3cret" not in to_json(with_key("s3cret")) + str(flatten(with_key("s3cret")))
    assert flatten(with_key("s3cret")) == flatten(with_key("another"))
    whole = from_json(to_json(with_key("s3cret"), with_secrets=True))
    assert whole == with_key("s3cret")
