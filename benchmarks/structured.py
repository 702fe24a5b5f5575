"""`make bench-structured`: what it costs when half of the answers have a structure, on a CPU.

    free  every answer is any text
    half  every second answer is JSON of a schema

Tokens a second of `half` ÷ those of `free`, in turn, in one sitting, on the mid-size model with a
vocabulary of forty thousand tokens: a mask has a bit for each. All answers have the same number of
tokens: the free ones may not end earlier, and the list that the schema asks for is longer.
Expected before the first run: 0.97, because a mask takes some 50 µs, in another thread, and a step
of so many sequences a hundred times as long.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.alone import Alone
from benchmarks.figures import spread
from benchmarks.workload import Asked
from workers.settings import EngineSettings

TOKENS = 24
VOCABULARY = 40_000
#: As data pipelines ask for it: an object with an enum, a number and a text, many times.
SCHEMA = {
    "type": "array",
    "minItems": 1_000,
    "items": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["shoe", "shirt", "bag"]},
            "price": {"type": "number", "minimum": 0},
            "name": {"type": "string"},
        },
        "required": ["kind", "price", "name"],
    },
}
ARMS = ("free", "half")


def asked(count: int, arm: str) -> Iterator[Asked]:
    """Photos, all to be described in so many tokens."""
    for number, one in enumerate(workload.photos(count, lengths=(TOKENS,))):
        if arm == "free" or number % 2:
            yield one
            continue
        request = {"kind": "caption", "schema": json.dumps(SCHEMA)}
        yield replace(one, request={**request, "options": {"max_new_tokens": TOKENS}})


def tokens_per_second(engine: Alone, some: list[Asked]) -> float:
    """Answer all, and return the tokens of the answers by time."""
    began = time.monotonic()
    answers = engine.answer(some)
    seconds = time.monotonic() - began
    if {answer.completion_tokens for answer in answers} != {TOKENS}:
        raise SystemExit("not all answers have the same number of tokens")
    structured = [answer.text.startswith('[{"kind": "') for answer in answers]
    if structured != ["schema" in one.request for one in some]:
        raise SystemExit("an answer does not have the structure that it should have")
    return TOKENS * len(some) / seconds


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Run both arms in turn, on one loaded model."""
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        workload.mid(Path(folder), vocabulary=VOCABULARY)
        settings = EngineSettings(model="mid", model_path=folder, features_bytes=0)
        engine = Alone(settings)
        some = {arm: list(asked(count, arm)) for arm in ARMS}
        for arm in ARMS:
            tokens_per_second(engine, some[arm][:8])  # lazy set-up
        for number in range(rounds):
            for arm in ARMS if number % 2 else reversed(ARMS):
                rates[arm].append(tokens_per_second(engine, some[arm]))
        engine.close()
    ratios = [half / free for half, free in zip(rates["half"], rates["free"], strict=True)]
    return {"items": count, "tokens_per_second": rates, "ratio": spread(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Half of the answers structured ÷ none.")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench-structured.json"))
    arguments = parser.parse_args()
    figures = measure(arguments.items, arguments.rounds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2))
    ratio = figures["ratio"]
    print(
        f"bench-structured: half structured ÷ none {ratio['median']:.3f}"
        f" ({ratio['min']:.3f} – {ratio['max']:.3f}), n {arguments.rounds}"
    )


if __name__ == "__main__":
    main()
