"""`make faults`: seeded rounds on both kinds of surroundings, a table, and docs/reliability.md."""

import argparse
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.faults import chaos, greedy, soak, surroundings, zygote
from tests.faults.chaos import Report
from tests.faults.surroundings import Surroundings
from tests.faults.zygote import Zygote

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: make faults -->", "<!-- end of figures -->"


def main() -> int:
    """Play the rounds."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--seconds", type=float, default=150, help="torment in each round")
    parser.add_argument("--rounds", type=int, default=1, help="on each kind of surroundings")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}'s figures")
    parser.add_argument("--soak", type=float, default=0, help="seconds without faults, measured")
    parser.add_argument("--greedy", action="store_true", help="measure a greedy neighbour")
    parser.add_argument("--only", choices=["embedded", "real"])
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        zygote.running() as forks,
        servers.postgres() as cluster,
        servers.swift(_made(Path(name) / "swift")) as endpoint,
    ):
        stage = Stage(Path(name), forks, cluster, endpoint)
        reports = list(_rounds(stage, arguments))
        shown = table(reports) if reports else ""
        faults = sum(sum(report.verdict.numbers.values()) for report in reports)
        if arguments.greedy:
            with stage.surroundings("real", "greedy") as around:
                waits = greedy.play(forks, around, stage.folder / "greedy-world")
            shown += f"\n\nA greedy neighbour, on Postgres and S3:\n\n{waits.table()}"
        if arguments.soak:
            with stage.surroundings("real", "soak") as around:
                calm = soak.play(forks, around, stage.folder / "calm", seconds=arguments.soak)
            shown += f"\n\nA soak without faults, on Postgres and S3:\n\n{soak.table(calm)}"
            faults += calm.faults
    print(shown)
    if arguments.write:
        _write(shown)
    return 1 if faults else 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Where rounds are played: a folder, the zygote, a Postgres cluster and an S3 store."""

    folder: Path
    forks: Zygote
    cluster_url: str
    s3_endpoint: str

    def surroundings(self, kind: str, name: str) -> AbstractContextManager[Surroundings]:
        """Fresh ones for a round."""
        if kind == "embedded":
            return surroundings.embedded(self.folder / name)
        return surroundings.real(self.folder / name, self.cluster_url, self.s3_endpoint)


def _rounds(stage: Stage, arguments: argparse.Namespace) -> Iterator[Report]:
    for number in range(arguments.rounds):
        for kind in [arguments.only] if arguments.only else ["embedded", "real"]:
            seed, name = arguments.seed + number, f"{kind}{number}"
            with stage.surroundings(kind, name) as around:
                folder = stage.folder / f"{name}-world"
                report = chaos.play(
                    stage.forks, around, folder, seed=seed, seconds=arguments.seconds
                )
            print(f"{kind}, seed {seed}: {report.verdict}", flush=True)
            yield report


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def table(reports: list[Report]) -> str:
    """The figures, a column for each kind of surroundings."""
    kinds = list(dict.fromkeys(report.surroundings for report in reports))
    columns = [[one for one in reports if one.surroundings == kind] for kind in kinds]
    rows: list[tuple[str, list[str]]] = [
        ("seeds", [_seeds(some) for some in columns]),
        ("faults", [str(sum(sum(one.faults.values()) for one in some)) for some in columns]),
        ("of them kills", [str(sum(one.kills for one in some)) for some in columns]),
        ("acknowledged items", [str(sum(one.verdict.items for one in some)) for some in columns]),
    ]
    rows += [
        (f"**{name}**", [f"**{_number(some, name)}**" for some in columns])
        for name in ("lost", "duplicated", "changed", "unexpected")
    ]
    rows.append(("executions per item", [_executions(some) for some in columns]))
    for share in (0.5, 0.99):
        title = f"kill to answer elsewhere, p{share * 100:.0f}"
        rows.append((title, [_recovery(some, share) for some in columns]))
    head = ["| |" + "|".join(f" {kind} " for kind in kinds) + "|", "|---|" + "---:|" * len(kinds)]
    body = [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows]
    faults = sum((one.faults for one in reports), Counter[str]())
    listed = ", ".join(f"{name} {count}" for name, count in faults.most_common())
    return "\n".join([*head, *body, "", textwrap.fill(f"Faults: {listed}.", 100)])


def _seeds(reports: list[Report]) -> str:
    seeds = [report.seed for report in reports]
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"


def _number(reports: list[Report], name: str) -> int:
    return sum(report.verdict.numbers[name] for report in reports)


def _executions(reports: list[Report]) -> str:
    items = sum(report.verdict.items for report in reports)
    return f"{sum(report.executions for report in reports) / max(1, items):.2f}"


def _recovery(reports: list[Report], share: float) -> str:
    whole = Report("all", 0, recoveries=[one for report in reports for one in report.recoveries])
    return f"{whole.recovery(share):.1f} s of {len(whole.recoveries)}"


def _write(shown: str) -> None:
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
