"""``uniroute drift``: which LLMs got worse, or return, and whether the map still fits the prompts."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings

if TYPE_CHECKING:
    from workers.storage.prompt_mixes import KeptMix

command = typer.Typer(no_args_is_help=True, help="See which LLMs changed, and whether the map still fits.")


@command.callback()
def root() -> None:
    """See which LLMs changed, and whether the map still fits."""


@command.command("status")
def status(
    *,
    last: Annotated[int, typer.Option(help="Alarms to list, the newest first.", min=0)] = 10,
    as_json: AsJson = False,
) -> None:
    """Show how each LLM stands, how near it is to an alarm, the last alarms, and how the map fits."""
    from workers.storage.cluster_maps import ClusterMaps
    from workers.storage.engine import transaction
    from workers.storage.journal import Journal
    from workers.storage.llms import LLMs
    from workers.storage.prompt_mixes import PromptMixes
    from workers.storage.watches import KeptWatch, Watches

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        kept = Watches(session).list()
        living = [found.llm.name for found in LLMs(session).living()]
        version = ClusterMaps(session).active_version()
        mix = None if version is None else PromptMixes(session).read(version)
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
                "map": _describe(version, mix),
                "alarms": [{"at": one.at, "llm": one.subject, **one.body} for one in alarms],
            }
        )
        return
    rows = [
        [
            name,
            one.watch.standing,
            f"{one.watch.state.feedbacks:.0f}",
            f"{one.watch.state.worse:+.2f}",
            f"{one.watch.state.better:+.2f}",
            one.epoch,
            "" if one.changed_at is None else f"{one.changed_at:%Y-%m-%d %H:%M:%S}",
        ]
        for name, one in watches.items()
    ]
    columns = ["LLM", "standing", "feedbacks", "sd to worse", "sd to better", "changes", "last, UTC"]
    print_table(columns, rows, empty="No LLM is registered.")
    if version is not None:
        typer.echo(_say(version, mix))
    for one in alarms:
        typer.echo(f"{one.at:%Y-%m-%d %H:%M:%S} {one.subject} got {one.body['change']}")


def _describe(version: str | None, mix: "KeptMix | None") -> dict[str, Any]:
    if mix is None:
        return {"version": version, "prompts": 0, "windows": 0, "report": None}
    return {
        "version": version,
        "prompts": int(mix.window.prompts),
        "windows": mix.windows,
        "report": None if mix.report is None else asdict(mix.report),
        "reported_at": mix.reported_at,
    }


def _say(version: str, mix: "KeptMix | None") -> str:
    if mix is None or mix.report is None:
        prompts = 0 if mix is None else int(mix.window.prompts)
        return f"Map {version}: {prompts} prompts of the first window; nothing is known of its fit yet."
    found = mix.report
    figures = (
        f"{found.moved:.1%} of the last window's prompts moved to other clusters (p = {found.shares_p:.2g}), "
        f"they lie {found.farther:+.2f} standard deviations farther out (p = {found.distance_p:.2g})"
    )
    if found.drifted:
        return f"Map {version} NO LONGER FITS: {figures}. `uniroute map refit` fits one beside it."
    return f"Map {version} fits: {figures}."
