"""`make release`: build the wheel and the source distribution, and use them as a stranger would.

    sdist, wheel ─▶ an empty environment ─▶ idefiq[server] ─▶ `idefiq up` ─▶ a caption ─▶ Ctrl-C

Libraries come from the package index, in the versions of constraints.txt.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import servers

ROOT = Path(__file__).parents[2]
DIST = ROOT / "build" / "dist"
#: Long enough for the first start of an engine on a busy machine.
READY_SECONDS = 300


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command in an environment without this checkout; returns what it prints."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR"}
    env = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - for the process
        if name in kept or name.startswith("PIP_")
    }
    env["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def build() -> Path:
    """Build both distributions. Returns the wheel, which is made from the other one."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    [wheel] = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install the service into an empty environment. Returns its programs."""
    run(sys.executable, "-m", "venv", folder)
    pip: list[str | Path] = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
    ]
    run(*pip, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[server]", cwd=folder)
    python = folder / "bin" / "python"
    for name in ("api", "db", "workers"):
        found = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        if (told := run(python, "-c", found, cwd=folder).strip()) != "None":
            sys.exit(f"the wheel puts {name!r} into everybody's environment: {told}")
    return folder / "bin"


def use(programs: Path, folder: Path) -> str:
    """Start the service, caption a drawn scene, stop. Returns the caption."""
    port, log = servers.free_port(), folder / "log"
    draw: list[str | Path] = [
        programs / "python",
        "-P",
        "-m",
        "workers.demo.draw",
        folder / "photos",
        "1",
    ]
    [server] = programs.parent.glob("lib/python*/site-packages/idefiq/_server")
    subprocess.run(draw, env={"PYTHONPATH": str(server)}, check=True, stdout=subprocess.DEVNULL)
    up = [str(programs / "idefiq"), "up", "--data", str(folder / "data"), "--port", str(port)]
    env = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}  # noqa: TID251 - for the process
    with servers.running(up, log, env=env) as process:
        try:
            servers.wait_until(
                lambda: b"ready: " in log.read_bytes(), seconds=READY_SECONDS, process=process
            )
            url = f"http://127.0.0.1:{port}"
            said = run(programs / "idefiq", "caption", "photos", "--url", url, cwd=folder)
        except BaseException:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise
        process.send_signal(signal.SIGINT)
        if status := process.wait(90):
            sys.exit(f"`idefiq up` ended with {status}")
    return said.strip()


def main() -> int:
    """Build, install, use."""
    wheel = build()
    with tempfile.TemporaryDirectory(prefix="idefiq-release-") as name:
        folder = Path(name)
        programs = install(wheel, folder / "environment")
        said = use(programs, folder)
    files = ", ".join(sorted(file.name for file in DIST.iterdir()))
    print(f"release: {files} in {DIST.relative_to(ROOT)}; installed, it says {said!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
