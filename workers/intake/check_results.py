"""A buffer of image check results, so that one transaction writes many."""

import threading
from dataclasses import replace

from db.images import known_images
from db.images.known_images import CheckResult
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from workers.session import Session

#: Longest message of a result, in characters.
MAX_MESSAGE = 500

#: Owner and digest.
Owned = tuple[int, str]


class CheckResultBuffer:
    """Check results that are not in the database yet. Thread-safe.

    A result for an image that was deleted meanwhile is dropped by the write.

    Args:
        session: Writes are retried as long as it holds.
    """

    def __init__(self, database: Database, session: Session) -> None:
        self._database, self._session = database, session
        self._lock = threading.Lock()
        self._unwritten: dict[Owned, CheckResult] = {}

    def get(self, owned: Owned) -> CheckResult | None:
        """Return a buffered result, or None."""
        with self._lock:
            return self._unwritten.get(owned)

    def add(self, owned: Owned, check_result: CheckResult) -> None:
        """Buffer a result."""
        if check_result.message is not None:  # a decoder wrote it
            message = check_result.message.replace("\0", "\ufffd")[:MAX_MESSAGE]
            check_result = replace(check_result, message=message)
        with self._lock:
            self._unwritten[owned] = check_result

    def write(self) -> None:
        """Write all buffered results, retrying as long as the session holds.

        Results that the database rejects are dropped, so that they do not block others.
        """
        with self._lock:
            found = self._unwritten.copy()
        if not found:
            return
        session_id = self._session.id
        try:
            self._database.retrying(
                lambda transaction: known_images.record_checks(transaction, found),
                while_=lambda: self._session.holds(session_id),
            )
        except StorageError:
            raise
        except Exception:
            self._drop(found)
            raise
        self._drop(found)

    def _drop(self, found: dict[Owned, CheckResult]) -> None:
        with self._lock:
            for owned, check_result in found.items():
                if self._unwritten.get(owned) == check_result:
                    del self._unwritten[owned]
