"""Safetensors files, hashed while they are written.

The library writes all tensors at once, and what it wrote would have to be read again to be hashed.
The format is simple: the length of the header (8 bytes, little-endian), the header (JSON, filled up
with spaces to a multiple of 8 bytes), and the bytes of the tensors, one after the other.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order in which the library writes them: wide ones first, so that all are aligned."""
_LENGTH_BYTES = _ALIGNMENT = 8
_CHUNK_BYTES = 16 * 2**20


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Writes tensors in host memory to a safetensors file, as `save_file` does.

    Returns: the SHA-256 of the file, in hexadecimal digits.
    Raises: OSError.
    """
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for chunk in _chunks(tensors):
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    types = list(_TYPES)
    order = sorted(tensors, key=lambda name: (types.index(tensors[name].dtype), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(_LENGTH_BYTES, "little") + text
    for name in order:
        content = tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data
        for first in range(0, len(content), _CHUNK_BYTES):
            yield content[first : first + _CHUNK_BYTES]
