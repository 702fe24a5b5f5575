"""`make test-families`: compare every kind on every checkpoint, and write docs/models.md of it.

One line for each: the cases compared, and how many were equal, alone and in batches. A model
that cannot do a kind is asked for it all the same, and the refusal is what the table quotes.
"""

import argparse
import sys
import tempfile
import textwrap
from pathlib import Path

import torch
import transformers

from db.vocabulary.errors import RequestError
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.request_validation import validate_request
from tests.workers.families import cases, exact, tiny
from tests.workers.families.reference import Reference
from workers.families import sizes

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
START, END = "<!-- made by `make test-families`: do not edit -->", "<!-- end -->"
WHAT = {
    "idefics-base": "idefics-9b, idefics-80b",
    "idefics-base-resampler": "the same with the resampler",
    "idefics-instruct": "idefics-9b-instruct, idefics-80b-instruct",
    "idefics2": "idefics2-8b, -chatty, fine-tuned ones",
    "idefics2-base": "idefics2-8b-base",
    "idefics2-splitting": "idefics2-8b with image splitting",
    "idefics3": "Idefics3-8B-Llama3",
    "smolvlm": "SmolVLM-Instruct",
    "llava": "LLaVA 1.5",
    "internvl": "InternVL3 (hf)",
    "llava-onevision": "LLaVA-OneVision",
    "qwen2-vl": "Qwen2-VL",
    "qwen2.5-vl": "Qwen2.5-VL",
    "qwen3-vl": "Qwen3-VL",
    "qwen3.5": "Qwen3.5",
    "glm-4v": "GLM-4.1V",
    "gemma3": "Gemma 3",
    "gemma4": "Gemma 4",
    "llava-next": "LLaVA-NeXT (1.6)",
    "pixtral": "Pixtral (hf)",
    "mistral3": "Mistral Small 3.1 and later",
    "aya-vision": "Aya Vision",
    "ovis2": "Ovis2 (hf)",
    "deepseek-vl": "DeepSeek-VL (hf)",
    "paligemma": "PaliGemma",
    "paligemma2": "PaliGemma 2",
    "mllama": "Llama 3.2 Vision",
    "janus": "Janus (hf)",
    "blip-2": "BLIP-2",
    "instructblip": "InstructBLIP",
    "smolvlm2": "SmolVLM2",
}


def compare(root: Path) -> dict[str, list[exact.Comparison | str]]:
    """A row, or a refusal, for each kind of each checkpoint; printed as it comes."""
    rows: dict[str, list[exact.Comparison | str]] = {}
    for name, build in tiny.CHECKPOINTS.items():
        build(root / name)
        family, reference = exact.load(root / name, name), Reference(root / name)
        for kind in cases.CASES:
            row = exact.compare(family, reference, kind) or refusal(family.card, kind)
            print(
                row if isinstance(row, exact.Comparison) else f"{name:22} {kind:9} {row}",
                flush=True,
            )
            rows.setdefault(name, []).append(row)
    return rows


def refusal(card: ModelInfo, kind: str) -> str:
    """What the API says to a kind that a model cannot do."""
    try:
        validate_request({"kind": kind}, card)
    except RequestError as error:
        return f"refused: {error}"
    raise AssertionError(f"{card.name} takes {kind} and has no case of it")


def table(rows: dict[str, list[exact.Comparison | str]]) -> str:
    """Markdown of the rows, without what changes from machine to machine."""
    lines = [
        f"| architecture, by its checkpoints | family | continuous | {' | '.join(cases.CASES)} |",
        f"|---|---|---|{'---|' * len(cases.CASES)}",
    ]
    notes: list[str] = []
    for name, cells in rows.items():
        model = next(row.model for row in cells if isinstance(row, exact.Comparison))
        shown = []
        if model.serving and model.serving.why:
            why = f"served by `generate`: {model.serving.why}"
            notes += [] if why in notes else [why]
            shown.append(f"[{notes.index(why) + 1}]")
        else:
            shown.append("yes")
        for cell in cells:
            if isinstance(cell, str):
                notes.append(f"422: {cell.removeprefix('refused: ')}")
                shown.append(f"no [{len(notes)}]")
            else:
                counts = [f"{cell.single}/{cell.cases}", f"{cell.batch}/{cell.batched}"]
                counts += [f"{cell.slots}/{cell.slotted}"] if cell.slotted else []
                shown.append(", ".join(counts))
        lines.append(f"| {WHAT[name]} | `{model.family}` | {' | '.join(shown)} |")
    wrapped = [
        textwrap.fill(f"* [{number}] {note}", width=100, subsequent_indent="  ")
        for number, note in enumerate(notes, 1)
    ]
    return "\n".join([*lines, "", *wrapped])


def render(rows: dict[str, list[exact.Comparison | str]]) -> str:
    """What stands between the marks in docs/models.md."""
    return f"{table(rows)}\n\n### Idefics2-8B, by part\n\n{sizes.table(sizes.idefics2_8b())}"


def written() -> str:
    """What stands there now."""
    return PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0].strip()


def main() -> int:
    """Compare, print, and write the page with --write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/models.md")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder))
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        text = f"{before}{START}\n\n{render(rows)}\n\n{END}{after}"
        PAGE.write_text(text, encoding="utf-8")
    told = [row for some in rows.values() for row in some if isinstance(row, exact.Comparison)]
    compared = sum(row.cases + row.batched + row.slotted for row in told)
    unequal = compared - sum(row.single + row.batch + row.slots for row in told)
    print(f"families: {compared} answers compared with transformers, {unequal} differ")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
