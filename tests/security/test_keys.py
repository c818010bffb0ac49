"""Keys that a user writes into a URI are in no message."""

import pytest

from bt_ray.data.location import locate, public_name
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.data.sources import open_source
from bt_ray.embedding.neighbors import EmbeddingSet
from bt_ray.errors import DataError

URIS = (
    "bad://KEY:HIDDEN@bucket/x?token=HIDDEN", "s3://KEY:HIDDEN@bucket/x?nonsense=HIDDEN",
    "s3://KEY:HID/DEN@bucket/x", "s3://KEY:HID/D/EN@bucket/a@b", "file://KEY:HIDDEN@host/x",
    "gs://KEY:HIDDEN@bucket/x?HIDDEN=1#HIDDEN",
)  # fmt: skip


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("read", [locate, open_source, ShardSet.open, EmbeddingSet.open])
def test_no_message_has_a_key(read: object, uri: str) -> None:
    with pytest.raises(DataError) as told:
        read(uri)  # type: ignore[operator]
    assert not any(part in str(told.value) for part in ("HID", "DEN", "KEY"))


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("s3://KEY:HIDDEN@bucket/x?region=y", "s3://bucket/x"),
        ("s3://bucket/a@b/c.tar", "s3://bucket/a@b/c.tar"),
        ("s3://host:9000/a@b", "s3://host:9000/a@b"),
        ("gs://bucket", "gs://bucket"),
        ("file:///a/b", "file:///a/b"),
        ("/a@b/c?d", "/a@b/c?d"),
    ],
)
def test_the_rest_of_a_name_is_told(name: str, public: str) -> None:
    assert public_name(name) == public
