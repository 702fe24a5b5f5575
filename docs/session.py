"""`make session`: records docs/session.svg, a terminal session with the service as it is.

Every command is run, on a service started for it; what is drawn is what was printed.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from idefiq.up import Stack

COMMANDS = (
    "idefiq models",
    "idefiq caption photos --dry-run",
    "idefiq caption photos --out captions.jsonl",
    "tail -n 2 captions.jsonl",
    'idefiq ask "What color is the background?" photos --limit 3',
    "cp photos/0001.png photos/broken.png && idefiq retry captions.jsonl",
    "idefiq jobs",
)
WIDTH = 110


def record(folder: Path, url: str) -> str:
    """Run every command in `folder`; returns the session as SVG."""
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: SIM115
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "IDEFIQ_URL": url,
        # Colours as in a terminal, but no bar that moves.
        "TTY_COMPATIBLE": "1",
        "TTY_INTERACTIVE": "0",
        "COLUMNS": str(WIDTH),
    }
    for command in COMMANDS:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        console.print(Text.from_ansi(done.stdout.rstrip()))
        console.print()
    picture = console.export_svg(title="idefiq", unique_id="session")
    # The fonts would be fetched from elsewhere whenever somebody looks.
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def main() -> None:
    """Start a service, record, and write the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw = [sys.executable, "-m", "workers.demo.draw", str(folder / "photos"), "120"]
        subprocess.run(draw, check=True)
        (folder / "photos" / "broken.png").write_text("not a picture")
        stack = Stack(folder / "data", port=0, models=["demo"], log=folder / "service.log")
        with stack.running():
            picture = record(folder, stack.url)
    Path(__file__).with_name("session.svg").write_text(picture)


if __name__ == "__main__":
    main()
