"""``uniroute db``: the tables of this installation."""

import typer

from workers.cli.console import FAILED, AsJson, print_json, read_settings
from workers.storage import migrate
from workers.storage.engine import describe_url

command = typer.Typer(no_args_is_help=True, help="Bring the database up to date, or tell whether it is.")


@command.command("upgrade")
def upgrade() -> None:
    """Make the tables, or change them, to what this version of uniroute needs; safe to run again."""
    url = read_settings().database_url
    migrate.upgrade(url)
    typer.echo(f"{describe_url(url)} is at revision {migrate.current(url)}.")


@command.command("current")
def current(*, as_json: AsJson = False) -> None:
    """Tell which revision the database is at, and which one this version of uniroute needs."""
    url = read_settings().database_url
    found, needed = migrate.current(url), migrate.head()
    if as_json:
        print_json({"database": describe_url(url), "revision": found, "needed": needed})
    else:
        typer.echo(f"{describe_url(url)} is at revision {found or 'none'}; {needed} is needed.")


@command.command("check")
def check(*, as_json: AsJson = False) -> None:
    """Compare the database with what this version of uniroute needs; exit code 1 where they differ."""
    url = read_settings().database_url
    differences = migrate.check(url)
    if as_json:
        print_json({"database": describe_url(url), "differences": differences})
    elif differences:
        for difference in differences:
            typer.echo(difference)
    else:
        typer.echo(f"{describe_url(url)} is what this version of uniroute needs.")
    if differences:
        raise typer.Exit(FAILED)
