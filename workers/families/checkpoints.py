"""Where a model's checkpoint is and what it says of itself."""

from pathlib import Path

from transformers import AutoConfig

from db.errors import RequestError
from workers.settings import EngineSettings

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"


def location(settings: EngineSettings) -> str:
    """Folder or hub name of the checkpoint."""
    if settings.model_path:
        return settings.model_path
    return str(DEMO) if settings.model == "demo" else settings.model


def revision(settings: EngineSettings) -> str | None:
    """The commit to load, None for whatever is there."""
    return settings.model_revision or None


def model_type(settings: EngineSettings) -> str:
    """The architecture that config.json names.

    Raises:
        RequestError: There is no checkpoint where the settings say.
    """
    where = location(settings)
    try:
        config = AutoConfig.from_pretrained(where, revision=revision(settings))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"model {settings.model!r}: there is no checkpoint at {where!r}, or none that can be"
            " read; name a folder, or a checkpoint of the hub, with IDEFIQ_MODEL_PATH"
        ) from error
    return str(config.model_type)


def licence(settings: EngineSettings) -> str:
    """The licence to show."""
    return settings.model_licence or ("Apache-2.0" if settings.model == "demo" else "unknown")
