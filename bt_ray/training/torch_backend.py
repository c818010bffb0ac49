"""By what Ray Train's workers exchange tensors: NCCL only where there are GPUs indeed."""

from dataclasses import replace

import torch
from ray.train.torch import TorchConfig

_TORCH_BACKEND = TorchConfig().backend_cls


class _ByDevice(_TORCH_BACKEND):  # type: ignore[misc, valid-type]
    """Gloo for workers that hold GPUs which only Ray counts: NCCL refuses to begin there."""

    def on_start(self, worker_group: object, backend_config: TorchConfig) -> None:
        """Connects the workers, once it is known what they compute on."""
        if backend_config.backend == "nccl":  # Ray's choice for all that hold a GPU by its count
            has_cuda = worker_group.execute_single(0, torch.cuda.is_available)  # type: ignore[attr-defined]
            backend_config = replace(backend_config, backend="nccl" if has_cuda else "gloo")
        super().on_start(worker_group, backend_config)


class ByDevice(TorchConfig):
    """Connects workers by NCCL if they compute on GPUs, and by gloo if not."""

    @property
    def backend_cls(self) -> type[_ByDevice]:
        """What Ray Train calls when a group of workers has started."""
        return _ByDevice
