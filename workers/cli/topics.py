"""``uniroute topics``: the topics of this installation."""

from typing import Annotated

import typer

from workers.cli.console import AsJson, print_json, print_table, read_settings

command = typer.Typer()


@command.command("topics")
def topics(
    *,
    create: Annotated[bool, typer.Option("--create", help="Create what is missing first.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the topics with their partitions."""
    from workers.installation import install
    from workers.topics import describe_topics

    settings = read_settings()
    if create:
        install(settings)
    found = describe_topics(settings)
    if as_json:
        print_json(found)
        return
    print_table(
        ["topic", "partitions"],
        sorted(found.items()),
        empty="There is no topic yet: create them with `uniroute topics --create`.",
    )
