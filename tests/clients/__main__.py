"""`make test-clients`: programs that use other people's libraries, on the whole service.

Each is run by the Python of build/clients, which has the libraries at the versions of
requirements.txt and nothing of ours. It fails by an exception.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from idefiq.up import Stack

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = Path(__file__).parents[2] / "build" / "clients" / "bin" / "python"
PATIENCE_SECONDS = 600


def main() -> int:
    """Run all programs; returns the number of those that failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data", port=0, models=["demo"], log=Path(folder) / "log")
        with stack.running():
            for program in sorted(PROGRAMS.glob("with_*.py")):
                failed += not _runs(program, stack)
    return failed


def _runs(program: Path, stack: Stack) -> bool:
    began = time.monotonic()
    command = [str(PYTHON), str(program), f"{stack.url}/v1", str(stack.api_key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    is_good = done.returncode == 0
    print(f"{program.stem}: {'ok' if is_good else 'FAILED'}, {time.monotonic() - began:.0f} s")
    if not is_good:
        print(done.stdout[-3_000:], done.stderr[-3_000:], sep="\n")
    return is_good


if __name__ == "__main__":
    sys.exit(main())
