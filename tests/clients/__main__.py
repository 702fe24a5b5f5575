"""`make test-clients`, `make test-node-clients`: other people's libraries on the whole service.

Each program is run by the Python of build/clients, which has the libraries at the versions of
requirements.txt and nothing of ours, or by Node with those of node/package-lock.json. It fails by
an exception.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from idefiq.up import Stack

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
PATIENCE_SECONDS = 600


def main() -> int:
    """Run all programs; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description="Other people's libraries on the whole service.")
    parser.add_argument("--node", action="store_true", help="those for Node")
    node = parser.parse_args().node
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "data", port=0, models=["demo"], log=Path(folder) / "log")
        with stack.running():
            for command in _for_node() if node else _for_python():
                failed += not _runs(command, stack)
    return failed


def _for_python() -> list[list[str]]:
    python = BUILD / "clients" / "bin" / "python"
    return [[str(python), str(each)] for each in sorted((HERE / "programs").glob("with_*.py"))]


def _for_node() -> list[list[str]]:
    node = shutil.which("node") or "node"
    # Modules are looked for beside a program.
    return [[node, str(each)] for each in sorted((BUILD / "node-clients").glob("with_*.mjs"))]


def _runs(command: list[str], stack: Stack) -> bool:
    began = time.monotonic()
    whole = [*command, f"{stack.url}/v1", str(stack.api_key)]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    is_good, seconds = done.returncode == 0, time.monotonic() - began
    print(f"{Path(command[1]).stem}: {'ok' if is_good else 'FAILED'}, {seconds:.0f} s")
    if not is_good:
        print(done.stdout[-3_000:], done.stderr[-3_000:], sep="\n")
    return is_good


if __name__ == "__main__":
    sys.exit(main())
