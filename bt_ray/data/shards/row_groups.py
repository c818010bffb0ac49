"""Reads row groups of one shard, and checks that the file is complete and the manifest's."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from bt_ray.data.location import first_line
from bt_ray.data.shards.manifest import SAMPLES, Shard
from bt_ray.errors import DataError

_log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_WAY_OUT = "restore it, or prepare the data again"


class _Footers:
    """Where the row groups lie in the shards that were read last: a footer is read once."""

    _MOST = 4096

    def __init__(self) -> None:
        self._known: OrderedDict[Shard, pq.FileMetaData] = OrderedDict()
        self._lock = Lock()

    def get(self, shard: Shard) -> pq.FileMetaData | None:
        with self._lock:
            return self._known.get(shard)

    def keep(self, shard: Shard, footer: pq.FileMetaData) -> None:
        if shard.num_bytes is None:
            return  # nothing would tell that the file was changed since
        with self._lock:
            self._known[shard] = footer
            self._known.move_to_end(shard)
            if len(self._known) > self._MOST:
                self._known.popitem(last=False)


_footers = _Footers()


def read_row_groups(
    filesystem: pa.fs.FileSystem,
    root: str,
    name: str,
    shard: Shard,
    groups: Sequence[int],
    columns: Sequence[str] = SAMPLES.names,
) -> pa.Table:
    """The samples of some row groups of a shard.

    If the storage fails, reading is tried again up to four times, after growing pauses.

    Args:
      root: the shards' folder in `filesystem`.
      name: the same folder, as error messages call it.
      groups: numbers of the row groups in the shard.
    Raises: DataError if the file is missing, is not the one that the manifest describes, is
      damaged, or if the storage keeps failing.
    """
    path, called = f"{root}/{shard.file}", f"{name}/{shard.file}"
    return _patiently(lambda: _read(filesystem, path, called, shard, groups, columns), called)


def _read(
    filesystem: pa.fs.FileSystem,
    path: str,
    called: str,
    shard: Shard,
    groups: Sequence[int],
    columns: Sequence[str],
) -> pa.Table:
    try:
        with filesystem.open_input_file(path) as stream:
            size = stream.size()
            if shard.num_bytes is not None and size != shard.num_bytes:
                raise DataError(
                    f"{called} has {size:,} bytes, and the manifest says {shard.num_bytes:,}: it "
                    f"was cut short or changed since; {_WAY_OUT}."
                )
            file = pq.ParquetFile(
                stream,
                metadata=_footers.get(shard) or shard.metadata(),
                pre_buffer=True,  # one request for neighbouring columns, not one for each
                page_checksum_verification=True,
            )
            if file.metadata.num_rows != shard.num_rows:
                raise DataError(
                    f"{called} has {file.metadata.num_rows:,} rows, and the manifest says "
                    f"{shard.num_rows:,}: it is another file; {_WAY_OUT}."
                )
            _footers.keep(shard, file.metadata)
            return file.read_row_groups(groups, columns=list(columns))
    except FileNotFoundError as error:
        raise DataError(f"{called} is missing; {_WAY_OUT}.") from error
    except (pa.ArrowInvalid, pa.ArrowKeyError, IndexError) as error:
        raise DataError(f"{called} is damaged ({first_line(error)}); {_WAY_OUT}.") from error
    except OSError as error:
        if any(word in str(error) for word in ("CRC", "deserialize", "corrupt file")):
            raise DataError(f"{called} is damaged ({first_line(error)}); {_WAY_OUT}.") from error
        raise


def _patiently(read: Callable[[], pa.Table], called: str) -> pa.Table:
    for pause_s in _PAUSES_S:
        try:
            return read()
        except OSError as error:
            _log.warning("%s: %s; asking again in %s s.", called, first_line(error), pause_s)
            time.sleep(pause_s)
    try:
        return read()
    except OSError as error:
        raise DataError(
            f"{called} cannot be read, tried {len(_PAUSES_S) + 1} times ({first_line(error)}); see "
            "to the storage, and the same command goes on."
        ) from error
