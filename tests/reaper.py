"""Ends what a run of the suite has started, when the run has ended in whatever way.

A run marks its environment, which its processes inherit, and starts this program in a session of
its own. When the run's process is gone, even if it was killed, this kills every process with the
mark, by its id.
"""

import contextlib
import os
import secrets
import sys
import time

import psutil

MARK = "IDEFIQ_TESTS_RUN"


def start() -> None:
    """Mark this process and start its reaper, unless it was started by a marked one."""
    if MARK in os.environ:  # noqa: TID251 - a fact about the process
        return
    token = secrets.token_hex(8)
    # Not with subprocess, which expects that somebody waits for it.
    command = [sys.executable, __file__, str(os.getpid()), token]
    os.spawnv(os.P_NOWAIT, sys.executable, command)
    os.environ[MARK] = token  # noqa: TID251 - for the processes of the tests


def _end_marked(token: str) -> int:
    """Kill all processes with the mark. Returns how many there were."""
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_left = process.status() != psutil.STATUS_ZOMBIE
            if is_left and process.environ().get(MARK) == token:
                process.kill()
                found += 1
    return found


def main() -> None:
    """Wait for the end of a run, then end what is left of it."""
    os.setsid()
    pid, token = int(sys.argv[1]), sys.argv[2]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    while _end_marked(token):  # what was killed may have been starting others
        time.sleep(0.1)


if __name__ == "__main__":
    main()
