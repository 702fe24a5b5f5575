"""Load a processor without its video part: only images are served here.

The processors of Qwen-VL, InternVL, LLaVA-OneVision, GLM-4V, Gemma 4 and others have a part for
videos, which needs torchvision and cannot be loaded with the Pillow backend that the image part
is loaded with. `without_videos` puts an empty part in its place while a processor is loaded.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PushToHubMixin

#: Two loads at once must not take each other's stand-in away.
_lock = threading.RLock()


class NoVideos(PushToHubMixin):  # type: ignore[misc]  # the library serialises no others
    """Replaces the video part of a processor, and takes no inputs.

    Every other attribute that a processor reads while it is built is None.
    """

    model_input_names: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return nothing to save."""
        return {}


@contextmanager
def without_videos() -> Iterator[None]:
    """Give every processor that is loaded inside the block a `NoVideos`."""

    def checked(processor: ProcessorMixin, name: str, part: Any) -> Any:
        return type(part) if isinstance(part, NoVideos) else check(processor, name, part)

    with _lock:
        check = ProcessorMixin.check_argument_for_proper_class
        own = vars(AutoVideoProcessor)["from_pretrained"]
        AutoVideoProcessor.from_pretrained = classmethod(lambda *_, **__: NoVideos())
        ProcessorMixin.check_argument_for_proper_class = checked
        try:
            yield
        finally:
            ProcessorMixin.check_argument_for_proper_class = check
            AutoVideoProcessor.from_pretrained = own
