"""Tensors written by us are those that the library writes, byte for byte."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bt_ray.checkpoints import tensor_file
from bt_ray.checkpoints.tensor_file import _TYPES, write_tensors


def _of_all_types() -> dict[str, Tensor]:
    """Of each type three tensors, in no order of names or types."""
    torch.manual_seed(1)
    tensors = {}
    for number, kind in enumerate(reversed(_TYPES)):
        for shape in ((3, 5), (), (0, 4)):
            name = f'{number * 7 % 8}."ü/{kind}\n{len(shape)}{shape[:1]}'
            tensors[name] = (torch.randn(shape) * 3).to(kind)
    return tensors


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"one": torch.arange(6.0).reshape(2, 3)},
        {"weight": torch.ones(7), "batches": torch.tensor(3), "mean": torch.zeros(5)},
        _of_all_types(),
    ],
)
def test_files_are_those_of_the_library(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "theirs")
    laid_out = {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in tensors.items()}
    digest = write_tensors(laid_out, tmp_path / "ours")
    content = (tmp_path / "ours").read_bytes()
    assert content == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    for name, value in load_file(tmp_path / "ours").items():
        assert torch.equal(value, tensors[name])


def test_a_large_tensor_is_written_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 64)
    tensors = {"a": torch.randn(33), "b": torch.randn(16)}
    sizes = [len(chunk) for chunk in tensor_file._chunks(tensors)]
    assert sizes[1:] == [64, 64, 4, 64]
    digest = write_tensors(tensors, tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()
