"""What holds for every file: how long it may be, and that a name means one thing."""

import ast
import collections
import inspect
from pathlib import Path
from typing import Any

import pytest

from idefiq import AsyncClient, Client

ROOT = Path(__file__).parents[1]
#: Programs of the service, and of its users: each side has names of its own.
SIDES = (("api", "db", "workers"), ("idefiq",))
MAX_LINES = 300
FIRST_LINES = 4


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if "versions" not in path.parts]


def test_a_file_longer_than_300_lines_says_why_in_its_first_lines() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in files("api", "db", "workers", "idefiq", "benchmarks", "docs")
        if len(lines := path.read_text().splitlines()) > MAX_LINES
        and not any("300 lines because" in line for line in lines[:FIRST_LINES])
    ]

    assert silent == [], (
        f"longer than {MAX_LINES} lines: split it, or say why in the first {FIRST_LINES} lines:"
        " 'Longer than 300 lines because …'"
    )


def named(path: Path) -> set[str]:
    """Public classes and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [name for target in targets for name in ast.walk(target)]
            names |= {one.id for one in found if isinstance(one, ast.Name) and one.id.isupper()}
    return {name for name in names if not name.startswith("_") and len(name) > 1}


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side[0])
def test_a_class_or_a_constant_has_a_name_of_its_own(side: tuple[str, ...]) -> None:
    homes: dict[str, list[str]] = collections.defaultdict(list)
    for path in files(*side):
        for name in sorted(named(path)):
            homes[name].append(str(path.relative_to(ROOT)))

    twice = {name: where for name, where in homes.items() if len(where) > 1}
    assert twice == {}, "one name for two things: rename one, or make it private with _"


def methods(client: type[Any]) -> dict[str, list[tuple[str, object]]]:
    """Names, kinds and defaults of the parameters of public methods."""
    return {
        name: [
            (str(one.kind), one.name, one.default)  # type: ignore[misc]
            for one in inspect.signature(member).parameters.values()
        ]
        for name, member in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    assert len(methods(Client)) > 20
    assert methods(AsyncClient) == methods(Client)


def test_every_method_of_both_clients_says_what_it_does() -> None:
    for client in (Client, AsyncClient):
        for name in methods(client).keys() - {"__init__"}:
            assert inspect.getdoc(getattr(client, name)), (client, name)
