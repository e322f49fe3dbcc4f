"""The entry point of the command ``uniroute``: finds the module of a command when it is asked for."""

import platform
from importlib import import_module
from importlib.metadata import version as read_version
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command as build_command

from workers.cli import console

#: Each command's module, in the order of the help. A module loads what its command needs, which for some is
#: a second of imports: no other command should wait for it.
MODULES = {
    "demo": "demo",
    "chaos": "chaos",
    "up": "stack",
    "down": "stack",
    "status": "stack",
    "serve": "serve",
    "send": "prompts",
    "feedback": "feedback",
    "rates": "rates",
    "drift": "drift",
    "batch": "batch",
    "explain": "explain",
    "llm": "llms",
    "price": "prices",
    "map": "maps",
    "policy": "policies",
    "tenant": "tenants",
    "replay": "replay",
    "topics": "topics",
    "dlq": "dlq",
    "db": "database",
    "embedder": "embedder",
    "evaluate": "evaluate",
    "assign": "assign",
    "learn": "learn",
}
#: Other names of the same; not listed.
ALIASES = {"embedders": "embedder"}


class Commands(TyperGroup):
    """A group whose commands are imported when they are called, or listed for help."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  # typer's copy of click has no public name
        """Give the names, in the order of the help."""
        return [*MODULES, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  # as above
        """Import and give one command; ``None`` for a name that there is not."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in MODULES:
            return super().get_command(ctx, cmd_name)
        found: Any = build_command(import_module(f"workers.cli.{MODULES[cmd_name]}").command)
        found = getattr(found, "commands", {}).get(cmd_name, found)
        found.name = cmd_name
        return found


command = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Route LLM prompts over Kafka: each to the LLM with the least predicted error + lambda * cost.",
)


@command.callback()
def root() -> None:
    """Route LLM prompts over Kafka: each to the LLM with the least predicted error + lambda * cost."""


@command.command("version")
def version(*, as_json: console.AsJson = False) -> None:
    """Print the version of uniroute and of Python."""
    found = {"uniroute": read_version("uniroute"), "python": platform.python_version()}
    if as_json:
        console.print_json(found)
    else:
        typer.echo(f"uniroute {found['uniroute']} on Python {found['python']}")


def main() -> None:
    """Run the command line."""
    console.run(command)
