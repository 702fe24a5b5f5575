"""What checks have found, until it is written: many verdicts in one transaction."""

import threading
from dataclasses import replace

from db import verdicts
from db.database import Database
from db.errors import StorageError
from db.verdicts import Verdict
from workers.session import Session

#: Longest message of a verdict, in characters.
MESSAGE = 500

#: Owner and digest.
Owned = tuple[int, str]


class Findings:
    """Verdicts that are not in the record yet; used from several threads.

    Whether an image is known at all is the record's to say: a verdict on one that was deleted
    meanwhile is written nowhere.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._unwritten: dict[Owned, Verdict] = {}

    def get(self, owned: Owned) -> Verdict | None:
        """What was found a moment ago."""
        with self._lock:
            return self._unwritten.get(owned)

    def note(self, owned: Owned, verdict: Verdict) -> None:
        """Keep what was found, to be written."""
        if verdict.message is not None:  # in the words of decoders
            message = verdict.message.replace("\0", "\ufffd")[:MESSAGE]
            verdict = replace(verdict, message=message)
        with self._lock:
            self._unwritten[owned] = verdict

    def write(self, session: Session, session_id: str) -> None:
        """Write what is not written yet, as long as the session lives.

        What the record refuses is dropped, so that it does not stand in the way of others.
        """
        with self._lock:
            found = self._unwritten.copy()
        if not found:
            return
        try:
            self._database.retrying(
                lambda transaction: verdicts.judge(transaction, found),
                while_=lambda: session.holds(session_id),
            )
        except StorageError:
            raise
        except Exception:
            self._drop(found)
            raise
        self._drop(found)

    def _drop(self, found: dict[Owned, Verdict]) -> None:
        with self._lock:
            for owned, verdict in found.items():
                if self._unwritten.get(owned) == verdict:
                    del self._unwritten[owned]
