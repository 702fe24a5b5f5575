"""The run of a manifest: its plan, the folder that its paths start from, and its shards."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.manifest_file import ManifestFile
from idefiq.errors import IdefiqError


class RunFacts:
    """What a manifest knows of its run."""

    def __init__(self, file: ManifestFile) -> None:
        self._file, self._db = file, file.db

    def begin(self, plan: Plan, *, is_named: bool = False) -> None:
        """Record the plan of a run, or check that it is the same as before.

        Args:
            is_named: The user has chosen where the manifest is.

        Raises:
            IdefiqError: The manifest is of another question or model.
        """
        identity = {"question": plan.ask.identity(), "model": plan.model}
        earlier = self._file.fact("identity") if self._has_chunks() else None
        for name, value in (earlier or {}).items():
            if value != identity[name]:
                raise IdefiqError(
                    f"{plan.out or 'this folder'!r} belongs to a run with another {name};"
                    " choose another --out, or use --fresh to ask everything again"
                )
        self._file.set_fact("identity", identity)
        self._file.set_fact("plan", asdict(plan))
        if self._file.path:
            here, folder = Path.cwd(), self._file.path.parent.resolve()
            self._file.set_fact("begun_in", os.path.relpath(here, folder))
            self._file.set_fact("begun_at", str(here))
            self._file.set_fact("folder", os.path.relpath(folder, here))
            self._file.set_fact("is_named", is_named)

    def begun_in(self) -> Path | None:
        """Folder that the plan's paths start from; None if version 0.1.0 began the run."""
        noted: str | None = self._file.fact("begun_in")
        if noted is None or self._file.path is None:
            return None
        return (self._file.path.parent.resolve() / noted).resolve()

    def follow(self) -> None:
        """Update paths in the manifest's folder if the folder was renamed with its contents."""
        begun_in, before = self.begun_in(), self._file.fact("folder")
        if begun_in is None or self._file.path is None or not before or before.startswith("."):
            return
        now = os.path.relpath(self._file.path.parent.resolve(), begun_in)
        if now == before:
            return

        def moved(path: Any) -> Any:
            inside = isinstance(path, str) and (path == before or path.startswith(f"{before}/"))
            return f"{now}{path[len(before) :]}" if inside else path

        def within(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: within(each) for name, each in value.items()}
            return [within(each) for each in value] if isinstance(value, list) else moved(value)

        rows = self._db.execute("SELECT number, key, source, location, columns, text FROM images")
        with self._file.writing() as db:
            for number, key, source, *encoded in rows.fetchall():
                row_values = [each and json.dumps(within(json.loads(each))) for each in encoded]
                db.execute(
                    "UPDATE images SET key = ?, source = ?, location = ?, columns = ?, text = ?"
                    " WHERE number = ?",
                    (moved(key), moved(source), *row_values, number),
                )
            plan = self._file.fact("plan")
            if plan:
                self._file.set_fact(
                    "plan", {**plan, **within({k: plan[k] for k in ("sources", "out")})}
                )
            self._file.set_fact("folder", now)

    def begun_at(self) -> Path | None:
        """The same folder by its absolute path, as it was then."""
        noted: str | None = self._file.fact("begun_at")
        return Path(noted) if noted else None

    def has_plan(self) -> bool:
        """True if a run was begun."""
        return self._file.fact("plan") is not None

    @property
    def is_named(self) -> bool:
        """True if the user chose the manifest's path, so it need not be by the output."""
        return bool(self._file.fact("is_named"))

    def plan(self) -> Plan:
        """Return the plan of the last run.

        Raises:
            IdefiqError: None was.
        """
        stored = self._file.fact("plan")
        if stored is None:
            raise IdefiqError(f"{str(self._file.path)!r} is a manifest without a run")
        return Plan(**{**stored, "ask": Ask(**stored["ask"])})

    def _has_chunks(self) -> bool:
        return bool(self._db.execute("SELECT 1 FROM chunks").fetchone())

    def shards(self) -> list[str]:
        """Names of the shards that this run has written."""
        return list(self._file.fact("shards") or [])

    def wrote_shards(self, names: Sequence[str]) -> None:
        """Record those names."""
        self._file.set_fact("shards", list(names))
