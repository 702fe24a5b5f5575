"""What checks have found, until it is written: many verdicts in one transaction."""

import threading
from collections import OrderedDict

from db import verdicts
from db.database import Database, Transaction
from db.verdicts import Verdict
from workers.session import Session

#: Verdicts that are kept, so that the same image is not checked twice in a row.
KEPT = 4_096

Image = tuple[int, str]


class Findings:
    """Verdicts by owner and digest; used from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: OrderedDict[Image, Verdict] = OrderedDict()
        self._unwritten: dict[Image, tuple[int, Verdict]] = {}

    def get(self, owner_id: int, digest: str) -> Verdict | None:
        """What was found lately."""
        with self._lock:
            return self._known.get((owner_id, digest))

    def note(self, owner_id: int, digest: str, size: int, verdict: Verdict) -> None:
        """Keep what was found about so many bytes, to be written."""
        with self._lock:
            self._known[owner_id, digest] = verdict
            self._known.move_to_end((owner_id, digest))
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            self._unwritten[owner_id, digest] = (size, verdict)

    def write(self, session: Session, session_id: str) -> None:
        """Write what is not written yet, as long as the session lives."""
        with self._lock:
            found = self._unwritten.copy()
        if not found:
            return

        def work(transaction: Transaction) -> None:
            for owner_id in sorted({owner for owner, _ in found}):
                sizes = {
                    digest: size
                    for (owner, digest), (size, _) in found.items()
                    if owner == owner_id
                }
                verdicts.add(transaction, owner_id, sizes)
            verdicts.judge(transaction, {image: verdict for image, (_, verdict) in found.items()})

        self._database.retrying(work, while_=lambda: session.holds(session_id))
        with self._lock:
            for image, what in found.items():
                if self._unwritten.get(image) == what:
                    del self._unwritten[image]
