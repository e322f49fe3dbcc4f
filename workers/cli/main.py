"""The entry point of the command ``uniroute``: mounts the nouns."""

import platform
from importlib.metadata import version as read_version

import typer

from workers.cli import (
    console,
    database,
    demo,
    embedder,
    evaluate,
    llms,
    maps,
    policies,
    prompts,
    serve,
    stack,
    topics,
)

command = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Route LLM prompts over Kafka: each to the LLM with the least predicted error + lambda * cost.",
)
for one in (demo, stack, serve, topics, evaluate):
    command.add_typer(one.command)
command.add_typer(prompts.send_command)
command.add_typer(prompts.feedback_command)
command.add_typer(llms.command, name="llm")
command.add_typer(maps.command, name="map")
command.add_typer(policies.command, name="policy")
command.add_typer(embedder.command, name="embedder")
command.add_typer(database.command, name="db")


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
