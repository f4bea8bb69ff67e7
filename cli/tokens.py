"""``wan-flf2v token`` makes, lists, ranks and revokes the tokens of an API's clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table

from ..gateway.jobs.records import Priority
from .shared import EXIT_USAGE, fail, out, say
from .store_options import DataOption, NatsOption, check_extra, has_store, store_option, store_place, with_store

if TYPE_CHECKING:
    from ..gateway.jobs.records import Token
    from ..gateway.jobs.store import Store

_PRIORITY_HELP = "high, normal or low: whose requests run first; nobody waits longer than max_wait_s."
_OPERATOR_HELP = "It also sees the ComfyUIs' addresses and errors, and which requests of all tokens run on them."
_tokens = typer.Typer(help="The tokens that clients of the API send.", callback=check_extra, no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add ``token`` to the command line."""
    app.add_typer(_tokens, name="token")


@_tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="The token's name.")],
    data: DataOption = None,
    nats: NatsOption = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Calls a minute to each gateway, instead of the settings' limit.")
    ] = None,
    queue: Annotated[int | None, typer.Option(min=0, help="Requests waiting, instead of the settings' limit.")] = None,
    priority: Annotated[Priority, typer.Option(help=_PRIORITY_HELP)] = "normal",
    operator: Annotated[bool, typer.Option("--operator", help=_OPERATOR_HELP)] = False,
) -> None:
    """Make a token and print it. It is shown this once; only its hash is kept."""
    from ..gateway.jobs.tokens import TokenNameError, create_token

    async def make(store: Store) -> tuple[str, Token]:
        made = await create_token(store, name, rate_per_minute=rate, queue_limit=queue, operator=operator)
        if priority != "normal":
            await store.set_priority(name, priority)
        return made

    try:
        text, token = with_store(data, nats, make)
    except TokenNameError as error:
        fail(str(error), EXIT_USAGE)
    say(f"Token {token.name}; its webhooks are signed with {token.webhook_secret}")
    typer.echo(text)


@_tokens.command("list")
def list_tokens(data: DataOption = None, nats: NatsOption = None) -> None:
    """List the tokens' names, limits and priorities, and which are an operator's."""
    from ..gateway.http.responses import timestamp

    place = store_place(data, nats)

    async def read(store: Store) -> tuple[list[Token], dict[str, Priority]]:
        return await store.tokens(), await store.priorities()

    tokens, priorities = with_store(data, nats, read) if has_store(data, nats) else ([], {})
    if not tokens:
        command = f"wan-flf2v token create NAME {store_option(data, nats)}"
        say(f"There is no token in {place}. `{command}` makes one there.")
        return
    say(f"Tokens in {place}:")
    table = Table("Name", "Made", "Calls a minute", "Waiting", "Priority", "Operator")
    for token in tokens:
        limits = ("default" if limit is None else str(limit) for limit in (token.rate_per_minute, token.queue_limit))
        operator = "yes" if token.operator else ""
        table.add_row(token.name, timestamp(token.created_at), *limits, priorities.get(token.id, "normal"), operator)
    out.print(table)


@_tokens.command("priority")
def set_priority(
    name: Annotated[str, typer.Argument(help="The token's name.")],
    priority: Annotated[Priority, typer.Argument(help=_PRIORITY_HELP)],
    data: DataOption = None,
    nats: NatsOption = None,
) -> None:
    """Change a token's priority, also for its requests that wait."""
    if not has_store(data, nats) or not with_store(data, nats, lambda store: store.set_priority(name, priority)):
        _fail_without_token(name, data, nats)
    say(f"Token {name} has priority {priority}.")


@_tokens.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The token's name.")], data: DataOption = None, nats: NatsOption = None
) -> None:
    """Make a token worthless at once. Requests made with it go on."""
    if not has_store(data, nats) or not with_store(data, nats, lambda store: store.revoke_token(name)):
        _fail_without_token(name, data, nats)
    say(f"Token {name} is revoked.")


def _fail_without_token(name: str, data: Path | None, nats: str | None) -> NoReturn:
    there = store_place(data, nats)
    fail(f'There is no token "{name}" in {there}. `wan-flf2v token list` shows those there are.', EXIT_USAGE)
