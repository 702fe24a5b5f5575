"""A run of the suite that is killed leaves no process behind."""

import os
import signal
import subprocess
import sys

import psutil

from tests import reaper, servers

RUN = """
import subprocess, sys
from tests import reaper
reaper.start()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_what_a_killed_run_has_started_ends_with_it() -> None:
    env = {k: v for k, v in os.environ.items() if k != reaper.MARK}  # noqa: TID251 - a run of its own
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        child = int(run.stdout.readline())

        run.send_signal(signal.SIGKILL)

    servers.wait_until(lambda: _has_ended(child), what="the end of the child")


def _has_ended(pid: int) -> bool:
    """True also if nobody has waited for it yet, as in containers whose first process does not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
