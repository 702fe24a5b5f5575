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
    scope: Annotated[
        list[str] | None,
        typer.Option(help="submit, read, review or admin; repeatable (default: all but admin)"),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days until it expires (default: never)")
    ] = None,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Create an API key and print it. It cannot be shown again."""
    with Client(url, api_key) as client:
        print(client.create_api_key(owner, note=note, scopes=scope or (), days=days).key)


@app.command("list")
def list_keys(url: UrlOption = None, api_key: ApiKeyOption = None, as_json: AsJson = False) -> None:
    """List API keys without their secrets."""
    with Client(url, api_key) as client:
        for key in client.api_keys():
            if as_json:
                print_json(asdict(key))
            else:
                print("  ".join((key.id, key.owner, ",".join(key.scopes), _state(key), key.note)))


def _state(key: ApiKey) -> str:
    used = f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
    if key.revoked_at:
        return f"revoked, {used}"
    return f"until {key.expires_at:%Y-%m-%d}, {used}" if key.expires_at else used


@app.command()
def revoke(key_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Revoke an API key at once."""
    with Client(url, api_key) as client:
        client.revoke_api_key(key_id)
    print(f"{key_id}: revoked")
