"""Chat completions of OpenAI's API, turned into requests of items.

{"model", "messages": [{"role", "content": [text, image_url]}], "max_tokens", "temperature", …}
  ─▶ {"kind": "chat", "images": […], "messages": […], "options": {…}}

What would be ignored silently and matters is refused by name. Options that only we have may be
sent beside the others, as `extra_body` of the client.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from db.openai import chat_errors
from db.openai.chat_fields import MAX_FIELDS, ChatFields
from db.openai.chat_messages import ChatImagePart, ChatPart, ChatTextPart, MessageIn
from db.openai.chat_structures import called_tool, structure_fields
from db.queue.item_checker import ItemChecker
from db.queue.submissions import NewItem
from db.vocabulary.errors import RequestError
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.requests import MAX_IMAGES, ItemIn, Options

#: Roles that chat templates do not know: the result of a tool is told as a user tells it.
_ROLES = {"developer": "system", "tool": "user"}
#: Options of sampling; greedy answers do without them.
_DRAWING = {"seed", "top_p", "top_k", "min_p"}


class ChatIn(ChatFields):
    """The body of `POST /v1/chat/completions`, and of a line of a batch."""

    @classmethod
    def from_body(cls, sent: object) -> "ChatIn":
        """Validate the body of a chat completion.

        Raises:
            RequestError: Names the field as it was sent.
        """
        if isinstance(sent, dict) and len(sent) > MAX_FIELDS:
            raise RequestError(f"the body has {len(sent)} fields; there are not so many")
        try:
            return cls.model_validate(sent)
        except ValidationError as error:
            raise chat_errors.body_error(error, sent) from error

    def item(
        self, checker: ItemChecker, sent: Mapping[str, Any], custom_id: str | None = None
    ) -> NewItem:
        """Turn the request into a checked item.

        Args:
            sent: The body that this was made of.

        Raises:
            RequestError: The model cannot answer it; names the field as it was sent.
        """
        drawing = self.model_dump(include=_DRAWING)
        try:
            Options.model_validate(drawing)  # whether used or not
        except ValidationError as error:
            raise chat_errors.body_error(error, drawing) from error
        item = self._item(checker.card, custom_id)
        if (images := len(item["images"])) > MAX_IMAGES:
            raise RequestError(
                f"{images} different images; a conversation may have {MAX_IMAGES}",
                field="messages",
            )
        try:
            return checker.check(ItemIn.model_validate(item))
        except ValidationError as error:
            raise chat_errors.item_error(error, item, sent) from error
        except RequestError as error:
            error.field = chat_errors.as_sent(error.field, sent)
            raise

    def items(self, checker: ItemChecker, sent: Mapping[str, Any]) -> list[NewItem]:
        """Turn the request into checked items, one for each choice; see `item`."""
        first = self.item(checker, sent)
        if (count := self.n or 1) == 1:
            return [first]
        options = first.request.get("options", {})
        if not options.get("do_sample"):
            raise RequestError("choices that are not sampled are equal: set temperature", field="n")
        seeds = [(options["seed"] + number) % 2**63 for number in range(count)]
        return [
            NewItem({**first.request, "options": {**options, "seed": seed}}, None) for seed in seeds
        ]

    def _item(self, card: ModelInfo, custom_id: str | None) -> dict[str, Any]:
        images: dict[str, int] = {}
        messages = [
            {"role": _ROLES.get(message.role, message.role), "content": _content(message, images)}
            for message in self.messages
        ]
        own = {"schema": self.schema_, "choices": self.choices, "regex": self.regex}
        structure = structure_fields(self.response_format, self.tools, self.tool_choice)
        if structure and (ours := [name for name, value in own.items() if value is not None]):
            raise RequestError(
                "an answer has one structure: leave out this or the response format and tools",
                field=ours[0],
            )
        return {
            **{name: value for name, value in own.items() if value is not None},
            **structure,
            "kind": "chat",
            "images": list(images),
            "messages": messages,
            "options": self._options(card) or None,
            "custom_id": custom_id,
        }

    def _options(self, card: ModelInfo) -> dict[str, Any]:
        most = self.max_completion_tokens
        most = most if most is not None else self.max_tokens
        options: dict[str, Any] = {
            # A maximum, so less than was allowed is no mistake: `finish_reason` tells.
            "max_new_tokens": min(most, card.limits.max_new_tokens) if most is not None else None,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop or None,
            "image_detail": self._image_detail(),
        }
        for name in (
            "top_k",
            "min_p",
            "min_new_tokens",
            "num_beams",
            "length_penalty",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "no_repeat_ngram_size",
        ):
            options[name] = getattr(self, name)
        if self.temperature == 0:
            options["do_sample"] = False
        if self.temperature == 0 or not self._is_drawn(card):
            # Among however many of the likeliest, the likeliest is taken.
            options |= {"top_k": None, "min_p": None}
        else:
            # With a seed, so that an attempt which is repeated says the same.
            seed = self.seed if self.seed is not None else secrets.randbits(53)
            options |= {"do_sample": True, "seed": seed}
            options |= {"temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def tool(self) -> str | None:
        """Name of the function that must be called."""
        return called_tool(self.response_format, self.tools, self.tool_choice)

    def _image_detail(self) -> str | None:
        """One for all images of the conversation: the finest that is asked for."""
        asked = {
            part.image_url.detail or "auto"
            for message in self.messages
            if not isinstance(message.content, str)
            for part in message.content or ()
            if isinstance(part, ChatImagePart)
        }
        if asked & {"high", "original"}:
            return "high"
        return "low" if asked == {"low"} else None

    def _is_drawn(self, card: ModelInfo) -> bool:
        narrowed = bool(self.top_k or self.min_p) or (self.top_p is not None and self.top_p < 1)
        return bool(self.temperature) or narrowed or bool(card.defaults.get("do_sample"))


def _content(message: MessageIn, images: dict[str, int]) -> list[dict[str, Any]]:
    """Return a message's parts, and collect its images in `images`, each once."""
    parts: list[dict[str, Any]] = []
    content = message.content or ()
    if isinstance(content, str):
        parts.append({"type": "text", "text": content})
    else:
        parts += [_part(part, images) for part in content]
    parts += [{"type": "text", "text": call.text_for_model} for call in message.tool_calls or ()]
    return parts or [{"type": "text", "text": "(nothing)" if message.role == "tool" else ""}]


def _part(part: ChatPart, images: dict[str, int]) -> dict[str, Any]:
    if isinstance(part, ChatTextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "index": images.setdefault(part.image_url.url, len(images))}
