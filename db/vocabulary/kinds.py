"""The kinds of items: what a request may say, how models are asked, and what an answer is.

One entry for each kind in `KINDS`; validation, prompts and answers read everything from there.

A model that was taught to converse takes turns ("chat"); a base model continues a text
("plain"), for which the wordings are those of the guide to IDEFICS in transformers. In a
template, {images} is where the images are and {prompt}, {question}, {labels}, {language} are the
request's fields; any other brace is a brace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from db.vocabulary.labels import named
from db.vocabulary.structures import FORMS

Kind = Literal["caption", "vqa", "classify", "generate", "chat"]
Style = Literal["chat", "plain"]
#: What {…} in a template may name for images: all of them, or the next one.
IMAGE_PLACES = frozenset({"images", "image"})
#: What {…} in a template may name besides: fields of the request.
TEMPLATE_FIELDS = frozenset({"prompt", "question", "labels", "language"})


@dataclass(frozen=True, slots=True)
class Template:
    """The prompt of one kind for models of one style.

    Attributes:
        name: Name and version; a changed wording is a new version.
        body: One question to the model; repeated for each example.
        head: What stands before everything, once.
        language: What {language} becomes when an answer's language is asked for; {} is its name.
        brackets: Labels as a list of Python, as the guide prints them, and not with commas alone.
    """

    name: str
    body: str
    head: str = ""
    language: str = "{}"
    brackets: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is to know about a kind.

    Attributes:
        required: Fields that a request must have, besides its images.
        one_of: Fields of which it must have at least one.
        optional: Other fields that it may have, besides examples and options.
        min_images: Fewest images.
        max_images: Most images; None for the limit of the model.
        example_questions: An example may have a question of its own.
        templates: By style; of each the usual template under "", the one for a request with this
            field under "prompt", and the one for a request with examples under "examples". None
            for a kind whose request holds the conversation itself, which needs a "chat" model.
        answer_fields: Fields that each answer of this kind has, None if it does not say.
        read: Finds those in a generated text, for a request.
    """

    required: frozenset[str] = frozenset()
    one_of: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    min_images: int = 0
    max_images: int | None = None
    example_questions: bool = False
    templates: Mapping[Style, Mapping[str, Template]] | None = field(default_factory=dict)
    answer_fields: tuple[str, ...] = ()
    read: Callable[[str, Mapping[str, Any]], dict[str, Any]] = lambda text, request: {}

    @property
    def fields(self) -> frozenset[str]:
        """All fields that a request of this kind may have."""
        own = self.required | self.one_of | self.optional
        return own | {"kind", "images", "examples", "options"}


_CAPTION = Entry(
    optional=frozenset({"prompt", "alt_text", "language", "template", *FORMS}),
    min_images=1,
    max_images=1,
    templates={
        "chat": {
            "": Template(
                "caption/1", "{images}Describe the image.{language}", language=" Answer in {}."
            ),
            "prompt": Template(
                "caption-prompt/1", "{images}{prompt}{language}", language=" Answer in {}."
            ),
        },
        "plain": {
            # The beginning of the text and the image alone: a base model goes on with a caption.
            "": Template(
                "plain-caption/1",
                "{images}",
                head="{language}",
                language="Instruction: Describe the image in {}.\n",
            ),
            "examples": Template(
                "plain-caption-examples/1",
                "User:{images}Describe this image{language}.\nAssistant:",
                language=" in {}",
            ),
            "prompt": Template(
                "plain-caption-prompt/1",
                "{images}{prompt}",
                head="{language}",
                language="Instruction: Answer in {}.\n",
            ),
        },
    },
)
_VQA = Entry(
    required=frozenset({"question"}),
    optional=frozenset({"language", "template", *FORMS}),
    min_images=1,
    example_questions=True,
    templates={
        "chat": {"": Template("vqa/1", "{images}{question}{language}", language=" Answer in {}.")},
        "plain": {
            "": Template(
                "plain-vqa/1",
                "{images}Question: {question} Answer:",
                head="Instruction: Provide an answer to the question{language}."
                " Use the image to answer.\n",
                language=" in {}",
            )
        },
    },
)
_CLASSIFY = Entry(
    required=frozenset({"labels"}),
    optional=frozenset({"method", "language", "template"}),
    min_images=1,
    templates={
        "chat": {
            "": Template(
                "classify/1",
                "{images}Classify the image into a single category from the following list:"
                " {labels}.{language} Answer with the category alone.",
                language=" Answer in {}.",
            )
        },
        "plain": {
            "": Template(
                "plain-classify/1",
                "{images}Category: ",
                head="Instruction: Classify the following image into a single category from the"
                " following list: {labels}.{language}\n",
                language=" Answer in {}.",
                brackets=True,
            )
        },
    },
    answer_fields=("label",),
    read=lambda text, request: {"label": named(text, request["labels"])},
)
_GENERATE = Entry(
    one_of=frozenset({"prompt", "template"}),
    optional=frozenset({"language", *FORMS}),
    templates={
        "chat": {
            "": Template("generate/1", "{images}{prompt}{language}", language=" Answer in {}.")
        },
        "plain": {
            "": Template(
                "plain-generate/1",
                "{images}Text: \n",
                head="Instruction: {prompt}{language}\n",
                language=" Answer in {}.",
            )
        },
    },
)
_CHAT = Entry(
    required=frozenset({"messages"}), optional=frozenset({*FORMS, "tool"}), templates=None
)

KINDS: Mapping[Kind, Entry] = {
    "caption": _CAPTION,
    "vqa": _VQA,
    "classify": _CLASSIFY,
    "generate": _GENERATE,
    "chat": _CHAT,
}


def kinds_of(style: Style) -> list[Kind]:
    """Return the kinds that a model of this style supports."""
    return [kind for kind, entry in KINDS.items() if style == "chat" or entry.templates]
