"""`idefiq keys`: API keys over HTTP, for operators with a key of the scope `admin`."""

from dataclasses import asdict
from typing import Annotated

import typer

from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, print_json
from idefiq.client import Client
from idefiq.types import ApiKey

app = typer.Typer(no_args_is_help=True, help="Manage API keys (requires a key of the scope admin).")


@app.command()
def create(
    owner: Annotated[str, typer.Argument(help="Owner of the key")],
    note: Annotated[str, typer.Option(help="A note for people")] = "",
    holder: Annotated[
        str, typer.Option(help="The person or program that gets it, for the audit and reviews")
    ] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="submit, read, review, metrics or admin; repeatable (default: the first three)"
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days until it expires (default: never)")
    ] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Create an API key and print it. It cannot be shown again."""
    with Client(url, api_key) as client:
        made = client.create_api_key(owner, note=note, holder=holder, scopes=scope or (), days=days)
    if as_json:
        print_json(asdict(made))
    else:
        print(made.key)


@app.command("list")
def list_keys(as_json: AsJson = False, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """List API keys without their secrets."""
    with Client(url, api_key) as client:
        for key in client.api_keys():
            if as_json:
                print_json({name: value for name, value in asdict(key).items() if name != "key"})
            else:
                print(_line(key))


def _line(key: ApiKey) -> str:
    used = f"used {key.last_used_at:%Y-%m-%d}" if key.last_used_at else "never used"
    state = f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "no expiry"
    state = "revoked" if key.revoked_at else state
    made = f"{key.created_at:%Y-%m-%d}"
    names = (key.holder, key.note)
    facts = (key.id, key.owner, ",".join(key.scopes), made, state, used)
    return "  ".join((*facts, *filter(None, names)))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `idefiq keys list` lists it")],
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Revoke an API key at once."""
    with Client(url, api_key) as client:
        client.revoke_api_key(key_id)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        print(f"{key_id}: revoked")
