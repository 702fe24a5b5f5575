"""`make bench-startup`: how long things take to be there, as multiples of what they are made of.

    api      importing the API ÷ importing FastAPI
    engine   a process that answers its first item in slots ÷ one that loads the same checkpoint by
             hand and lets the library answer the same

Each in a process of its own, in turn. Expected before the first run: 1.5 and 1.4, because an engine
checks its model before it answers anybody.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import spread

BY_HAND = """
import torch, transformers
from PIL import Image
from workers.families.checkpoints import DEMO
processor = transformers.AutoProcessor.from_pretrained(DEMO, backend="pil")
model = transformers.AutoModelForImageTextToText.from_pretrained(DEMO, dtype=torch.float32).eval()
content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
turns = [{"role": "user", "content": content}]
prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(text=[prompt], images=[[Image.new("RGB", (96, 96), "red")]], return_tensors="pt")
with torch.inference_mode():
    ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
print(processor.batch_decode(ids, skip_special_tokens=True))
"""
ENGINE = """
import io
from PIL import Image
from benchmarks.alone import Alone
from benchmarks.workload import Asked
from workers.settings import EngineSettings
data = io.BytesIO()
Image.new("RGB", (96, 96), "red").save(data, "PNG")
engine = Alone(EngineSettings(model="demo"))
request = {"kind": "caption", "options": {"max_new_tokens": 32}}
print(engine.answer([Asked(request, data.getvalue())]))
engine.close()
"""
#: Name → what is measured, and what it is divided by.
PAIRS = {"api": ("import api.app", "import fastapi"), "engine": (ENGINE, BY_HAND)}


def seconds(program: str) -> float:
    """From the start of a process to its end."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Times to be there, as multiples.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench-startup.json"))
    arguments = parser.parse_args()
    empty = [seconds("pass") for _ in range(arguments.rounds)]
    figures = {}
    for name, (ours, theirs) in PAIRS.items():
        seconds(ours), seconds(theirs)  # files come into memory
        ratios = [(seconds(ours) - bare) / (seconds(theirs) - bare) for bare in empty]
        figures[name] = spread(ratios)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2))
    shown = ", ".join(
        f"{name} {one['median']:.2f} ({one['min']:.2f} – {one['max']:.2f})"
        for name, one in figures.items()
    )
    print(f"bench-startup: {shown}, n {arguments.rounds}")


if __name__ == "__main__":
    main()
