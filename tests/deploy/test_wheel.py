"""The wheel is the whole service, and puts no generic name into anybody's environment."""

import os
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.deploy import installed

#: Tracked files of the server that no process reads.
LEFT_OUT = {"workers/demo/train.log"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from exactly what the Dockerfile copies."""
    return installed.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The programs of an environment with the wheel and an extra."""
    made: dict[str, Path] = {}

    def of(extra: str) -> Path:
        if extra not in made:
            folder = tmp_path_factory.mktemp(extra) / "venv"
            made[extra] = installed.environment(folder, wheel, extra)
        return made[extra]

    return of


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The settings of every process: nothing of this checkout, and a database to share."""
    kept = {"PATH", "HOME", "LANG"}
    return {
        **{name: value for name, value in os.environ.items() if name in kept},  # noqa: TID251
        "IDEFIQ_DATABASE_URL": f"sqlite:///{tmp_path}/idefiq.db",
        "IDEFIQ_STORE_FOLDER": f"{tmp_path}/blobs",
        "IDEFIQ_REDIS_URL": "redis://127.0.0.1:1/0",
        "IDEFIQ_PORT": str(servers.free_port()),
        "IDEFIQ_MODEL": "echo",
    }


def tracked(*folders: str) -> Iterator[str]:
    command = ["git", "ls-files", *folders]
    listed = subprocess.run(command, cwd=installed.ROOT, capture_output=True, text=True, check=True)
    return iter(listed.stdout.split())


def test_the_wheel_has_every_file_of_the_server_in_a_folder_of_its_own(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    files = set(tracked("api", "db", "workers")) - LEFT_OUT
    assert {f"idefiq/_server/{file}" for file in files} <= names
    assert set(tracked("idefiq")) <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"idefiq"}


@pytest.mark.parametrize("stage", ["api", "intake", "engine"])
def test_each_image_has_what_its_process_needs_and_no_more(
    stage: str, programs: Callable[[str], Path], env: dict[str, str], tmp_path: Path
) -> None:
    bin_ = programs(installed.extra_of(stage))
    command = installed.command_of(stage)
    log = tmp_path / "log"
    words = [str(bin_ / command[0]), *command[1:]]
    with servers.running(words, log, env=env) as process:
        ready = b"ready" if stage != "api" else b"Uvicorn running"
        try:
            servers.wait_until(lambda: ready in log.read_bytes(), process=process)
        except BaseException:
            print(log.read_text()[-4000:])
            raise
        if stage == "api":
            with urllib.request.urlopen(f"http://127.0.0.1:{env['IDEFIQ_PORT']}/docs") as page:
                assert b"idefiq" in page.read()


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("intake", ["worker", "upkeep"]),
        ("api", ["migrate"]),
        ("api", ["admin", "keys", "create"]),
        ("engine", ["models", "pull", "--help"]),
    ],
)
def test_what_an_operator_runs_is_in_the_image_that_compose_runs_it_in(
    extra: str,
    command: list[str],
    programs: Callable[[str], Path],
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    words = [str(programs(extra) / "idefiq"), *command]
    if command[0] != "worker":
        done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    log = tmp_path / "log"
    with servers.running(words, log, env=env) as process:
        servers.wait_until(lambda: b"ready" in log.read_bytes(), process=process)


@pytest.mark.parametrize("name", ["api", "db", "workers"])
def test_the_packages_of_the_server_are_on_no_import_path(
    name: str, programs: Callable[[str], Path], env: dict[str, str], tmp_path: Path
) -> None:
    python = str(programs("api") / "python")
    done = subprocess.run(
        [python, "-c", f"import idefiq, {name}"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert f"No module named '{name}'" in done.stderr


def test_an_installation_without_the_server_names_the_extra_to_install(
    programs: Callable[[str], Path], env: dict[str, str], tmp_path: Path
) -> None:
    idefiq = str(programs("files") / "idefiq")
    for words in (["up"], ["serve"], ["worker", "intake"], ["doctor"]):
        done = subprocess.run(
            [idefiq, *words], env=env, cwd=tmp_path, capture_output=True, text=True
        )

        assert done.returncode == 2
        assert "pip install 'idefiq[server]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_package_of_the_current_folder_is_never_taken_for_the_servers(
    programs: Callable[[str], Path], env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("raise SystemExit('not the server')")

    idefiq = str(programs("api") / "idefiq")
    done = subprocess.run(
        [idefiq, "migrate"], env=env, cwd=tmp_path, capture_output=True, text=True
    )

    assert "are ready" in done.stdout, done.stderr
