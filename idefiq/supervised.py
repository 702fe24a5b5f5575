"""A process that is started, watched and started again; see up.py."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from idefiq.errors import IdefiqError

#: A process that ran this long is taken for healthy, and its next pause is short again.
HEALTHY_SECONDS = 60.0
#: Longest wait before a process that keeps ending is started again.
MAX_RESTART_SECONDS = 30.0
#: Exit status of a process that no restart can help (EX_CONFIG of sysexits.h).
CONFIG_STATUS = 78
_PR_SET_PDEATHSIG = 1


@dataclass
class Service:
    """One supervised process."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    output: IO[bytes] | None
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 0.5
    due: float = 0.0

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            stdout=self.output,
            stderr=self.output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self.started = time.monotonic()

    def restart_if_due(self) -> str | None:
        """Restart it if it has ended and its pause is over. Returns what happened."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self.start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        self.process = None
        if status == CONFIG_STATUS:
            raise IdefiqError(f"{self.name} cannot run with these settings; see its log")
        self.pause = 0.5 if now - self.started > HEALTHY_SECONDS else self.pause * 2
        self.pause = min(self.pause, MAX_RESTART_SECONDS)
        self.due = now + self.pause
        return f"{self.name} ended with {status}; starting it again in {self.pause:g} s"

    def stop(self, deadline: float) -> None:
        """Wait for its end, or kill it at the deadline."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.process and self.process.poll() is None:
            self.process.terminate()


def _end_with_parent() -> None:
    """Make the kernel end this process when the supervisor is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
