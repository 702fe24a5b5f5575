"""Which engines `idefiq up` starts: one for each model and each GPU."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: In 32 bits most models do not fit a GPU, and none is fast.
GPU_DTYPE = "bfloat16"


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """An engine's process.

    Attributes:
        name: For people and logs.
        settings: Environment variables of its own, laid over those of the service.
    """

    name: str
    settings: dict[str, str]


def engines(
    models: Sequence[str], gpus: Sequence[int], *, host: str, dtype: str | None
) -> list[EngineProcess]:
    """Assign models to GPUs in turn, so that none is left out.

    Args:
        models: To serve, one at least.
        gpus: Numbers of GPUs; none for the device that the settings say.
        host: Name of this machine's first worker: each worker has a name of its own, under which
            a restart frees at once what its dead self held.
        dtype: What the settings say; None for what suits the device.
    """
    found: list[EngineProcess] = []
    mentions: Counter[str] = Counter()
    for place in range(max(len(models), len(gpus))):
        model = models[place % len(models)]
        mentions[model] += 1
        number = mentions[model]
        name, settings = f"engine {model}", {"IDEFIQ_MODEL": model}
        if number > 1:
            name, settings["IDEFIQ_WORKER_NAME"] = f"{name} {number}", f"{host}-{number}"
        if gpus:
            gpu = gpus[place % len(gpus)]
            name = f"{name} on cuda:{gpu}"
            settings |= {
                "IDEFIQ_DEVICE": f"cuda:{gpu}",
                "IDEFIQ_DTYPE": dtype or GPU_DTYPE,
                "IDEFIQ_WORKER_NAME": f"{host}-gpu{gpu}-{number}",
            }
        found.append(EngineProcess(name, settings))
    return found
