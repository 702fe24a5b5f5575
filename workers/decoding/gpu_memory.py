"""Metrics of GPU memory."""

from functools import partial

import torch

from workers.decoding.metrics import GPU_MEMORY_BYTES


def measure_gpu_memory(model: torch.nn.Module) -> None:
    """Export the memory of the GPUs that hold a model, as it is whenever metrics are read."""
    for device in {weight.device for weight in model.parameters() if weight.is_cuda}:
        read = {
            "tensors": partial(torch.cuda.memory_allocated, device),
            "reserved": partial(torch.cuda.memory_reserved, device),
            "used": partial(_used, device),
            "total": partial(_total, device),
        }
        for kind, function in read.items():
            GPU_MEMORY_BYTES.labels(str(device), kind).set_function(function)


def _used(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def _total(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[1])
