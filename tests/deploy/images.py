"""`make test-images`: build the container images for real, and have them answer a job.

    debootstrap ─▶ a stand-in for python:3.11-slim-bookworm ─▶ buildah bud ─▶ api, intake
    API, intake and upkeep in containers ┐
    Redis and an engine beside them      ┴─▶ one uploaded image, captioned

No image registry is asked. The stand-in has Debian's own Python 3.11, so what the images install
and run is what the published base would. Needs root, buildah and debootstrap (this installs them
from Debian) and the right to mount; where the kernel refuses that, it says so and passes.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from idefiq import Client, server
from tests import pictures, servers

ROOT = Path(__file__).parents[2]
BASE = "localhost/python:3.11-slim-bookworm"
SUITE = "bookworm"
PACKAGES = ("buildah", "debootstrap")
TARGETS = ("api", "intake")
#: Without a daemon, and without more of the kernel than chroot and mounts.
BUILDAH = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}


def run(*command: str | Path, **options: object) -> str:
    """Run a command; returns what it prints. Ends everything, with its output, if it fails."""
    env = {**os.environ, **BUILDAH}  # noqa: TID251 - for the process
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout.strip()


def install() -> None:
    """Install what is missing from Debian; a machine that cannot have it fails."""
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing and shutil.which("apt-get") is None:
        sys.exit(f"{', '.join(missing)} cannot be installed: there is no apt-get")
    if missing:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def refusal() -> str:
    """What the kernel refuses that images are built with; "" for nothing."""
    if os.getuid() != 0:
        return "images are built as root"
    probe = ["unshare", "--mount", "sh", "-c", "mount --bind / /mnt && chroot / true"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"mounting is refused: {tried.stderr.strip()}" if tried.returncode else ""


# ---- the base -----------------------------------------------------------------------


def make_base() -> None:
    """Make the stand-in for the base image, once."""
    if run("buildah", "images", "--quiet", "--filter", f"reference={BASE}"):
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        packages = "python3,python3-venv,python3-pip,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, root, *_mirror())
        (root / "usr/bin/python").symlink_to("python3")
        (root / "usr/bin/pip").unlink(missing_ok=True)
        (root / "usr/bin/pip").symlink_to("pip3")
        for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()
        container = run("buildah", "from", "scratch")
        run("buildah", "add", "--quiet", container, root, "/")
        run("buildah", "commit", "--quiet", "--rm", container, BASE)


def _mirror() -> list[str]:
    """The mirror that this machine installs the suite from, if it says one."""
    told = run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"),
        "Created-By: Packages",
    )
    lines = (line.split() for line in told.splitlines())
    return [words[0] for words in lines if words[1:] == [SUITE, "main"]][:1]


def build(target: str) -> str:
    """Build an image as the Dockerfile says. Returns its name."""
    name = f"idefiq-test-{target}"
    if run("buildah", "images", "--quiet", "--filter", f"reference=localhost/{name}"):
        run("buildah", "rmi", "--force", name)
    run(
        *("buildah", "bud", "--pull-never", "--format", "docker"),
        *(word for path in pip_files() for word in ("--volume", f"{path}:{path}:ro")),
        *("--target", target, "--tag", name, "--file", ROOT / "deploy" / "Dockerfile", ROOT),
    )
    return name


def pip_files() -> list[Path]:
    """Files that pip is configured with on this machine: lent to the build, never in the image."""
    told = run(sys.executable, "-m", "pip", "config", "debug")
    files = [
        line.strip().partition(", exists: ")[0]
        for line in told.splitlines()
        if line.endswith("exists: True")
    ]
    said = run(sys.executable, "-m", "pip", "config", "list").replace("'", " ").replace('"', " ")
    for word in said.split():
        path = Path(urllib.parse.unquote(word.removeprefix("file://")))
        # An index in a folder lists files that lie beside that folder.
        if path.is_absolute():
            files.append(str(path.parent if word.startswith("file://") else path))
    found = {Path(file) for file in files if Path(file).exists()}
    return sorted(path for path in found if not any(up in found for up in path.parents))


# ---- a job --------------------------------------------------------------------------


@contextlib.contextmanager
def container(image: str, folder: Path, env: Mapping[str, str], *command: str) -> Iterator[None]:
    """A process in a container of its own, ended with the block."""
    name = run("buildah", "from", "--pull-never", image)
    settings = [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
    words = ["buildah", "run", "--volume", f"{folder}:{folder}", *settings, name, "--", *command]
    log = folder / f"{name}.log"
    environment = {**os.environ, **BUILDAH}  # noqa: TID251 - for the process
    try:
        with servers.running(words, log, env=environment):
            yield
    except BaseException:
        print(f"--- {image} {' '.join(command)}\n{log.read_text()[-4000:]}", file=sys.stderr)
        raise
    finally:
        run("buildah", "rm", name)


def command_of(image: str) -> Sequence[str]:
    """The command that an image runs by itself."""
    told = run(
        "buildah", "inspect", "--format", "{{range .Docker.Config.Cmd}}{{.}}\n{{end}}", image
    )
    return told.split("\n")


def answer(api: str, intake: str) -> str:
    """Have the images answer a job, with Redis and an engine beside them. Returns the answer."""
    with tempfile.TemporaryDirectory(prefix="idefiq-images-") as name, contextlib.ExitStack() as up:
        folder = Path(name)
        folder.chmod(0o777)  # the images run as nobody special
        redis_server = servers.RedisServer(folder)
        redis_server.start()
        up.callback(redis_server.kill)
        port = servers.free_port()
        env = {
            "IDEFIQ_DATABASE_URL": f"sqlite:///{folder}/idefiq.db",
            "IDEFIQ_STORE_FOLDER": f"{folder}/blobs",
            "IDEFIQ_REDIS_URL": redis_server.url,
            "IDEFIQ_HOST": "127.0.0.1",
            "IDEFIQ_PORT": str(port),
        }
        up.enter_context(container(api, folder, env, *command_of(api)))
        client = up.enter_context(Client(f"http://127.0.0.1:{port}"))
        servers.wait_until(lambda: servers.accepts(port), what="the API's container")
        # Made by another user: the engine here and the containers share one database file.
        for file in folder.glob("idefiq.db*"):
            file.chmod(0o666)
        up.enter_context(container(intake, folder, env, *command_of(intake)))
        up.enter_context(container(intake, folder, env, "idefiq", "worker", "upkeep"))
        beside = server.environment({**os.environ, **env, "IDEFIQ_MODEL": "demo"})  # noqa: TID251
        engine = server.command("workers", "engine")
        up.enter_context(servers.running(engine, folder / "engine.log", env=beside))
        servers.wait_until(lambda: bool(client.models()), seconds=120, what="an engine")
        picture = folder / "picture.png"
        picture.write_bytes(pictures.plain(size=(96, 96)))
        job = client.submit([{"images": client.upload([picture])}])
        [result] = client.results(client.wait(job, seconds=120))
        if not result.answer:
            sys.exit(f"the job was not answered: {result.error}")
        return str(result.answer)


def main() -> int:
    """Install, build, run; a machine whose kernel refuses mounts is skipped aloud."""
    argparse.ArgumentParser(prog="make test-images", description=__doc__).parse_args()
    if why := refusal():
        print(f"images: skipped, as the kernel here does not allow it: {why}")
        return 0
    install()
    make_base()
    api, intake = map(build, TARGETS)
    for target, command in (
        (api, ["idefiq", "admin", "--help"]),
        (intake, ["idefiq", "--version"]),
    ):
        name = run("buildah", "from", "--pull-never", target)
        run("buildah", "run", name, "--", *command)
        run("buildah", "rm", name)
    print(f"images: {api} and {intake} are built; together they said {answer(api, intake)!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
