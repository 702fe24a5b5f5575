"""Two ways to pretend that there is a GPU, each of which sees what the other cannot.

    RedirectedGpu  everything that is asked of a GPU is done by the CPU: real loading, real numbers
    FakeGpu        tensors have a shape, a dtype and a device, and no numbers: nothing is computed,
                   and whatever mixes devices or waits for the GPU is seen

Neither sees kernels, streams, the capture of a CUDA graph, or pinned memory.
"""

import ctypes
import os
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.cpp_extension import include_paths

from tests import servers

GPU_BYTES = 80 * 2**30


class RedirectedGpu(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """Does on the CPU what is asked of a GPU, and counts what was asked of which.

    Attributes:
        chosen: Devices that were made the current one, in order.
        asked: By device, the names of the functions that were to run there.
    """

    def __init__(self, patch: pytest.MonkeyPatch, count: int) -> None:
        super().__init__()
        self.chosen: list[torch.device] = []
        self.asked: dict[str, list[str]] = {}
        self.count = count
        #: The library reads weights in threads, which see no mode of this one.
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
        for name, stand_in in {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "set_device": self._choose,
            "mem_get_info": lambda _=None: (GPU_BYTES, GPU_BYTES),
            "synchronize": lambda _=None: None,
            "empty_cache": lambda: None,
            "current_stream": _no_stream,
        }.items():
            patch.setattr(torch.cuda, name, stand_in)

    def _choose(self, device: torch.device) -> None:
        assert device.index is not None, "torch.cuda.set_device wants the number of a device"
        self.chosen.append(device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        kwargs = kwargs or {}
        if name == "device":
            return func(*args, **kwargs)

        def on_cpu(value: Any) -> Any:
            named = isinstance(value, str) and value.startswith("cuda")
            device = torch.device(value) if named else value
            if not isinstance(device, torch.device) or device.type != "cuda":
                return value
            assert (device.index or 0) < self.count, f"there is no {device}"
            self.asked.setdefault(str(device), []).append(name)
            return torch.device("cpu")

        args, kwargs = tree_map(on_cpu, (args, kwargs))
        return func(*args, **kwargs)


def _no_stream(_: object = None) -> None:
    raise RuntimeError("a pretended GPU has no streams, and captures nothing")


def guard_library(folder: Path) -> Path:
    """Compile guard.cpp against this torch; skips the test on a laptop without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        servers.unavailable("g++, to build the pretended GPU", "see tests/install-servers")
    assert compiler
    library = folder / "guard.so"
    libraries = Path(torch.__file__).parent / "lib"
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-std=c++20", Path(__file__).parent / "guard.cpp"),
            *(f"-I{path}" for path in include_paths()),
            *(f"-L{libraries}", "-lc10", f"-Wl,-rpath,{libraries}", "-o", library),
        ],
        check=True,
    )
    return library


class FakeGpu(TorchDispatchMode):  # type: ignore[misc]
    """Sees every operation on tensors of a GPU that is not there.

    Attributes:
        phase: What the engine is doing, in whose name faults are noted: "set up", "prefill",
            "step" or "captured".
        faults: What waits for the device within a step, or could not be part of a CUDA graph.
        operations: How many ran on the GPU, by phase.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.phase = "set up"
        self.faults: list[str] = []
        self.operations: dict[str, int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make and see tensors on the GPU inside the block."""
        with self.mode, torch.inference_mode(), self:
            yield

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Note what happens inside the block under another phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        on_cpu = all(device.type == "cpu" for device in devices)
        if on_cpu and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with _disable_current_modes():  # what is on the CPU is really computed
                return func(*args, **kwargs)
        self.operations[self.phase] = self.operations.get(self.phase, 0) + 1
        args, kwargs = tree_map_only(torch.Tensor, self._faked, (args, kwargs))
        result = func(*args, **kwargs)
        self._judge(str(func), tensors, args, kwargs, result)
        return result

    def _faked(self, tensor: torch.Tensor) -> torch.Tensor:
        fake = tensor if isinstance(tensor, FakeTensor) else self.mode.from_tensor(tensor)
        assert isinstance(fake, torch.Tensor)
        return fake

    def _judge(
        self, name: str, tensors: list[torch.Tensor], args: Any, kwargs: Any, result: Any
    ) -> None:
        if self.phase not in ("step", "captured"):
            return
        places = {tensor.device.type for tensor in tensors}
        if isinstance(result, torch.Tensor):
            places.add(result.device.type)
        copies = len(places) > 1 and ("copy" in name or "aten.to." in name)
        waits = "_local_scalar_dense" in name or "nonzero" in name
        non_blocking = kwargs.get(
            "non_blocking", args[2] if "aten.copy_" in name and len(args) > 2 else False
        )
        if waits or (copies and (self.phase == "captured" or not non_blocking)):
            self.faults.append(f"{self.phase}: {name} at {_place()}")


def _place() -> str:
    """The innermost line of ours or of the model's that runs now."""
    for frame in reversed(traceback.extract_stack()):
        if f"{os.sep}workers{os.sep}" in frame.filename and "tests" not in frame.filename:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "?"


def load_guard(folder: Path) -> None:
    """Register the guard with this process's torch; to be done once."""
    ctypes.CDLL(str(guard_library(folder)))
