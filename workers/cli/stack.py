"""``uniroute up``, ``down`` and ``status``: a Kafka and a Postgres of this machine's own, kept across runs.

``status`` ends with exit code 3 when one of them does not answer; the other codes are those of every command.
"""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, print_json, read_settings
from workers.errors import UsageError

if TYPE_CHECKING:
    from workers.local.stack import Endpoints, LocalStack, ServerStatus

DOWN_EXIT_CODE = 3

command = typer.Typer()

FolderOption = Annotated[
    Path | None,
    typer.Option(
        help="Where data and logs are kept; $XDG_DATA_HOME/uniroute or ~/.local/share/uniroute if not given.",
        show_default=False,
    ),
]


@command.command()
def up(*, folder: FolderOption = None, as_json: AsJson = False) -> None:
    """Start a Kafka and a Postgres that stay, and print the variables that point uniroute at them.

    Creates the tables, the topics and a default policy where they are missing; nothing to do if all is up.
    For a shell: eval "$(uniroute up)".
    """
    from workers.installation import install, keep_signing_key

    stack = open_stack(folder)
    typer.echo("Starting Kafka and Postgres; the first time takes longer, for Kafka is fetched.", err=True)
    variables = start(stack).as_environment()
    variables["UNIROUTE_SIGNING_KEY"] = keep_signing_key(stack.folder / "signing-key")
    install(
        read_settings(**{name.removeprefix("UNIROUTE_").lower(): value for name, value in variables.items()})
    )
    if as_json:
        print_json({"folder": str(stack.folder), "environment": variables})
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    typer.echo(f"Kafka and Postgres are up, their data and logs in {stack.folder}.", err=True)
    typer.echo(f"To stop them: uniroute down{_repeat(folder)}", err=True)


@command.command()
def down(*, folder: FolderOption = None, as_json: AsJson = False) -> None:
    """Stop the Kafka and the Postgres of a folder; their data stays. Nothing to do if they are down."""
    stack = open_stack(folder)
    stopped = [server.name for server in stack.status() if server.pid is not None]
    stack.stop()
    if as_json:
        print_json({"folder": str(stack.folder), "stopped": stopped})
    elif stopped:
        typer.echo(f"Stopped {' and '.join(stopped)} of {stack.folder}; the data stays there.", err=True)
    else:
        typer.echo(f"Nothing was up in {stack.folder}.", err=True)


@command.command()
def status(*, folder: FolderOption = None, as_json: AsJson = False) -> None:
    """Show whether the Kafka and the Postgres of a folder answer, and where; exit code 3 if one does not."""
    stack = open_stack(folder)
    servers = stack.status()
    if as_json:
        print_json({"folder": str(stack.folder), "servers": [asdict(server) for server in servers]})
    else:
        for server in servers:  # not a table: addresses are long, and meant to be copied
            typer.echo(f"{server.name}: {_judge(server)}")
            typer.echo(f"  address {server.address or '(none yet)'}\n  log     {server.log}")
    if not all(server.answers for server in servers):
        raise typer.Exit(DOWN_EXIT_CODE)


def open_stack(folder: Path | None) -> "LocalStack":
    """The stack of ``folder`` (the default one if None) that outlives the command; starts nothing."""
    try:
        from workers.local.folders import data_folder
        from workers.local.stack import LocalStack  # only with the extra
    except ImportError as error:
        raise UsageError(
            "a local Kafka and Postgres need the extra: pip install 'uniroute[local]'"
        ) from error
    return LocalStack(folder or data_folder(), outlive=True)


def start(stack: "LocalStack") -> "Endpoints":
    """Start the stack; a UsageError if its folder cannot be written."""
    try:
        return stack.start()
    except OSError as error:
        raise UsageError(f"{stack.folder} cannot hold the data: {error}; choose another --folder") from error


def _repeat(folder: Path | None) -> str:
    return f" --folder {shlex.quote(str(folder))}" if folder else ""


def _judge(server: "ServerStatus") -> str:
    if server.answers:
        return f"up (process {server.pid})"
    return "down" if server.pid is None else f"does not answer (process {server.pid})"
