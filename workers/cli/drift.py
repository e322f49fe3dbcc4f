"""``uniroute drift``: which LLMs got worse, or return, by what their feedback says."""

from typing import Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings

command = typer.Typer(no_args_is_help=True, help="See which LLMs changed.")


@command.callback()
def root() -> None:
    """See which LLMs changed."""


@command.command("status")
def status(
    *,
    last: Annotated[int, typer.Option(help="Alarms to list, the newest first.", min=0)] = 10,
    as_json: AsJson = False,
) -> None:
    """Show how each LLM stands, how near it is to an alarm, and the last alarms."""
    from workers.storage.engine import transaction
    from workers.storage.journal import Journal
    from workers.storage.llms import LLMs
    from workers.storage.watches import KeptWatch, Watches

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        kept = Watches(session).list()
        living = [found.llm.name for found in LLMs(session).living()]
        alarms = list(Journal(session).read(kinds=("drift",), last=last)) if last else []
    watches = {name: kept.get(name, KeptWatch()) for name in living}
    if as_json:
        print_json(
            {
                "llms": {
                    name: {
                        "standing": one.watch.standing,
                        "wants_probes": one.watch.wants_probes,
                        "feedbacks": one.watch.state.feedbacks,
                        "worse": one.watch.state.worse,
                        "better": one.watch.state.better,
                        "changes": one.epoch,
                        "changed_at": one.changed_at,
                    }
                    for name, one in watches.items()
                },
                "alarms": [{"at": one.at, "llm": one.subject, **one.body} for one in alarms],
            }
        )
        return
    rows = [
        [
            name,
            one.watch.standing,
            f"{one.watch.state.feedbacks:.0f}",
            f"{one.watch.state.worse:.3g}",
            f"{one.watch.state.better:.3g}",
            one.epoch,
            "" if one.changed_at is None else f"{one.changed_at:%Y-%m-%d %H:%M:%S}",
        ]
        for name, one in watches.items()
    ]
    columns = ["LLM", "standing", "feedbacks", "for worse", "for better", "changes", "last, UTC"]
    print_table(columns, rows, empty="No LLM is registered.")
    for one in alarms:
        typer.echo(f"{one.at:%Y-%m-%d %H:%M:%S} {one.subject} got {one.body['change']}")
