"""``uniroute replay``: decide logged traffic again and tell whether it comes out the same."""

from dataclasses import asdict
from typing import Annotated

import typer

from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings

command = typer.Typer()

_SHOWN = 20


@command.command("replay")
def replay(
    *,
    last: Annotated[int, typer.Option(min=1, help="Decisions to look back at.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Decide the last prompts again from what was logged; exit code 1 unless every bit is the same."""
    import msgspec

    from workers.messages import DecisionRecord
    from workers.reading import read_last
    from workers.replay import replay as decide_again
    from workers.topics import Topics

    settings = read_settings()
    logged = read_last(settings, Topics(settings.topic_prefix).decisions, last)
    with open_engine(settings) as engine:
        found = decide_again(engine, [msgspec.json.decode(one.value, type=DecisionRecord) for one in logged])
    if as_json:
        print_json(
            {
                "decisions": found.decisions,
                "identical": found.identical,
                "changed": [asdict(change) for change in found.changed],
            }
        )
    else:
        typer.echo(f"{found.identical} of {found.decisions} decisions came out the same, bit for bit.")
        print_table(
            ["prompt", "before", "now"],
            [[one.prompt_id, one.before, one.after or "none"] for one in found.changed[:_SHOWN]],
            empty="",
        )
    if found.changed:
        raise typer.Exit(FAILED)
