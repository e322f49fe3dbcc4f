"""``uniroute replay``: decide logged traffic again, and tell whether it comes out the same, or what moves."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_moment, read_prices
from workers.cli.policies import Last, Since, Until

command = typer.Typer()

_SHOWN = 20


@command.command("replay")
def replay(
    *,
    last: Last = None,
    since: Since = None,
    until: Until = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file to decide by.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A file of prices to decide with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Decide logged prompts again; unchanged, exit code 1 unless every bit is the same."""
    from workers.cli.plans import describe_traffic, print_plan
    from workers.policies import load_policy_bodies
    from workers.replay import complete_presets, plan_from_log, read_decisions
    from workers.replay import replay as decide_again

    settings = read_settings()
    declared = None if policy is None else load_policy_bodies(policy)
    charged = None if prices is None else read_prices(prices)
    records = read_decisions(settings, last=last, since=read_moment(since), until=read_moment(until))
    with open_engine(settings) as engine:
        bodies = None if declared is None else complete_presets(engine, declared)
        if bodies or charged:
            plan = plan_from_log(engine, records, bodies=bodies, prices=charged)
            identical, changed = plan.decisions - len(plan.changed), plan.changed
        else:
            plan = None
            found = decide_again(engine, records)
            identical, changed = found.identical, list(found.changed)
    if as_json:
        figures = {} if plan is None else {"plan": plan.as_json()}
        print_json(
            {
                "decisions": len(records),
                "identical": identical,
                "changed": [asdict(change) for change in changed],
                **figures,
            }
        )
    else:
        typer.echo(describe_traffic(records, last=last, windowed=bool(since or until)))
    if plan is not None and not as_json:
        print_plan(plan)
    elif not as_json:
        typer.echo(f"{identical} of {len(records)} decisions came out the same, bit for bit.")
        print_table(
            ["prompt", "before", "now"],
            [[one.prompt_id, one.before, one.after or "none"] for one in changed[:_SHOWN]],
            empty="",
        )
    if changed and plan is None:
        raise typer.Exit(FAILED)
