"""What every command shares: settings, JSON on standard output, and errors as one sentence."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine
from typer.exceptions import TyperException

from routing.errors import RoutingError
from workers.errors import UsageError, WorkersError
from workers.settings import Settings
from workers.storage.engine import make_engine

#: Exit codes: 0 done, 1 it failed, 2 the request cannot be met as it stands.
FAILED, REFUSED = 1, 2

#: The option of every command whose output a program would read.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def read_settings(**changes: object) -> Settings:
    """Read the environment, with ``changes`` in its place; ``UsageError`` names a variable that is wrong."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks each
    except ValidationError as error:
        first = error.errors()[0]
        name = f"UNIROUTE_{'_'.join(str(part) for part in first['loc'])}".upper()
        raise UsageError(f"{name} cannot be used: {first['msg']}") from error


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Open the database for one command."""
    engine = make_engine(settings.database_url, application_name="uniroute-cli")
    try:
        yield engine
    finally:
        engine.dispose()


def print_json(value: object) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows as a table; ``empty`` where there are none."""
    if not rows:
        typer.echo(empty)
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    Console().print(table)


def fail(error: Exception) -> NoReturn:
    """Say what went wrong in one sentence and end with its exit code."""
    print(f"uniroute: {error}", file=sys.stderr)  # noqa: T201 (the last word of a command)
    sys.exit(REFUSED if isinstance(error, UsageError | RoutingError) else FAILED)


def run(command: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end; whatever goes wrong is told in a sentence, never by a traceback.

    ``arguments`` are those of the process, unless given.
    """
    try:
        # Not standalone: typer would print its errors in a box, and end with them.
        code = command(arguments, standalone_mode=False)
    except (WorkersError, RoutingError) as error:
        fail(error)
    except typer.Abort:
        print("uniroute: aborted", file=sys.stderr)  # noqa: T201 (the last word of a command)
        sys.exit(FAILED)
    except TyperException as error:
        fail_usage(error)
    sys.exit(code if isinstance(code, int) else 0)


def fail_usage(error: TyperException) -> NoReturn:
    """Say in one line what was typed wrongly; where nothing was typed, show what could be."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # typer's copy of click has no public name
        typer.echo(error.format_message(), err=True)
        sys.exit(REFUSED)
    sentence = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    hint = "" if context is None else f" (see {context.command_path} --help)"
    print(f"uniroute: {sentence}{hint}", file=sys.stderr)  # noqa: T201 (the last word of a command)
    sys.exit(REFUSED)
