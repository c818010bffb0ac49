"""How busy the machine is that the first worker runs on, under MLflow's names."""

import psutil
import torch

_MB = 2**20


def read_gauges(device: torch.device) -> dict[str, float]:
    """Memory (MB) and load (%) by metric name; MLflow shows `system/…` on a page of its own.

    `system/worker_memory_megabytes` is this worker's: the most it has had allocated on its GPU
    so far, or what its process has resident now. The load is an average since the last call.
    """
    machine = psutil.virtual_memory()
    gauges = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": machine.used / _MB,
        "system/system_memory_usage_percentage": machine.percent,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        gauges["system/gpu_0_memory_usage_megabytes"] = (total - free) / _MB
        gauges["system/worker_memory_megabytes"] = torch.cuda.max_memory_allocated(device) / _MB
    else:
        gauges["system/worker_memory_megabytes"] = psutil.Process().memory_info().rss / _MB
    return gauges
