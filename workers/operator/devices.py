"""`python -m workers.operator.devices`: the GPUs that torch can use, as JSON."""

import json
import sys
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, by its number in `cuda:N`; sizes in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int


def gpus() -> list[Gpu]:
    """List the GPUs that torch can use; none without a driver, or with a torch without CUDA."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(index, torch.cuda.get_device_name(index), total, free))
    return found


if __name__ == "__main__":
    print(json.dumps([asdict(gpu) for gpu in gpus()]))
    sys.exit()
