"""API keys from the command line, as operators use it."""

import json

import pytest
from typer.testing import CliRunner

from db import owners
from db.sql.database import Database
from docs.reference import json_fields
from idefiq.cli import app
from tests.served import Serve


@pytest.fixture
def operator(serve: Serve, sqlite_url: str) -> dict[str, str]:
    """Where the service is, and an operator's key."""
    http = serve(sqlite_url, keys="always")
    database = Database(sqlite_url)
    with database.transaction() as transaction:
        ops = owners.get_or_create(transaction, "ops")
        key = owners.create_key(transaction, ops, scopes=["admin"])
    database.dispose()
    return {"IDEFIQ_URL": str(http.base_url), "IDEFIQ_API_KEY": key}


def test_a_key_is_made_listed_and_revoked(operator: dict[str, str]) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["keys", *words], env=operator)
        assert done.exit_code == 0, done.exception
        return done.stdout

    key = run("create", "ada", "--note", "laptop", "--scope", "read", "--days", "9").strip()
    [shown] = [line for line in run("list").splitlines() if "ada" in line]
    listed = [json.loads(line) for line in run("list", "--json").splitlines()]
    run("revoke", key.split("_")[1])
    [after] = [line for line in run("list").splitlines() if "ada" in line]

    assert "never used" in shown
    assert "  read  " in shown
    assert key.split("_")[2] not in json.dumps(listed)
    assert "revoked" in after


def test_keys_print_the_documented_fields(operator: dict[str, str]) -> None:
    def run(*words: str) -> dict[str, object]:
        done = CliRunner().invoke(app, ["keys", *words, "--json"], env=operator)
        printed: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return printed

    made = run("create", "ada")
    revoked = run("revoke", str(made["id"]))

    assert set(made) == set(json_fields("keys create"))
    assert set(run("list")) == set(json_fields("keys list"))
    assert revoked == {"id": made["id"], "revoked": True}


def test_an_unknown_scope_is_reported_in_one_line(operator: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["keys", "create", "ada", "--scope", "all"], env=operator)

    assert done.exit_code != 0
    assert "scopes" in str(done.exception)
