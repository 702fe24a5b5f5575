"""The request of a run, with {column} for what each image has of its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from idefiq.errors import IdefiqError
from idefiq.types import Item

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of one kind.

    Attributes:
        request: What is the same for all images, as defaults of a job.
        text_field: Which field the text is put into: prompt, question or messages.
        text: May name columns of the image's row in braces, `{name}` and `{folder}`.
        system: Chat: the system message.
    """

    request: Item
    text_field: str = ""
    text: str = ""
    system: str = ""

    @property
    def is_own(self) -> bool:
        """True if the text differs between images."""
        return bool(_PLACE.search(self.text))

    @property
    def fields(self) -> list[str]:
        """Names of the fields that each answer has, if its schema says so."""
        properties = self.request.get("schema", {}).get("properties", {})
        return list(properties) if isinstance(properties, dict) else []

    def with_options(self, options: Mapping[str, Any]) -> "Ask":
        """Return the same with other generation options laid over its own."""
        own = {**self.request.get("options", {}), **options}
        return replace(self, request={**self.request, "options": own})

    def defaults(self) -> Item:
        """Defaults of all items."""
        if not self.text or self.is_own:
            return dict(self.request)
        return {**self.request, **self._said(self.text)}

    def own(self, key: str, columns: Mapping[str, Any]) -> Item:
        """Request of one image's item besides its image.

        Raises:
            IdefiqError: The text names a column that its row does not have.
        """
        if not self.is_own:
            return {}
        known = {"name": PurePath(key).stem, "folder": PurePath(key).parent.name, **columns}

        def put(place: re.Match[str]) -> str:
            if place[1] not in known:
                raise IdefiqError(
                    f"unknown column {{{place[1]}}}; columns: {', '.join(sorted(known))}"
                )
            return str(known[place[1]])

        return self._said(_PLACE.sub(put, self.text))

    def _said(self, text: str) -> Item:
        if self.text_field != "messages":
            return {self.text_field: text}
        parts = [{"type": "image", "index": 0}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": parts}]
        if self.system:
            content = [{"type": "text", "text": self.system}]
            messages.insert(0, {"role": "system", "content": content})
        return {"messages": messages}

    def identity(self) -> dict[str, Any]:
        """Everything that makes it the same question in another run."""
        return {
            "request": self.request,
            "text_field": self.text_field,
            "text": self.text,
            "system": self.system,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete run as the command line describes it; the manifest keeps it for `idefiq retry`.

    Attributes:
        sources: See idefiq/bulk/sources.py.
        out: Where answers go; see idefiq/bulk/outputs.py.
        sidecar: Suffix of the text file beside each image, "" for none.
        existing: What to do with a text that is there already: skip, overwrite, append, prepend.
        limit: Most images; 0 for all.
        pause_on_issues: Share of answers with issues above which a job pauses itself.
        model_changed: "continue" or "pause" when the service serves another variant of the model.
    """

    sources: list[str]
    ask: Ask
    model: str | None = None
    out: str | None = None
    sidecar: str = ""
    existing: str = "skip"
    prefix: str = ""
    suffix: str = ""
    recursive: bool = True
    image_column: str | None = None
    limit: int = 0
    pause_on_issues: float | None = None
    model_changed: str | None = None
    shard_items: int = 10_000
