"""``uniroute policy``: what is chosen for whom, declared, planned, applied and rolled back."""

from pathlib import Path
from typing import Annotated

import typer

from workers.cli.calibrate import calibrate
from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_moment
from workers.cli.simulate import simulate
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.policies import Policies

command = typer.Typer(no_args_is_help=True, help="Declare, plan, apply and roll back policies.")

command.command("simulate")(simulate)
command.command("calibrate")(calibrate)

File = Annotated[Path, typer.Argument(help="YAML: NAME: {kind: ..., ...} for each policy.")]
Last = Annotated[
    int | None,
    typer.Option(
        min=1, help="The last so many decisions; if not given, all from --from to --to, or the last 1,000."
    ),
]
Since = Annotated[str | None, typer.Option("--from", help="Only decisions made from then on, ISO 8601.")]
Until = Annotated[str | None, typer.Option("--to", help="Only decisions made before then, ISO 8601.")]


@command.command("list")
def list_policies(*, as_json: AsJson = False) -> None:
    """List the policies in force."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = Policies(session).current()
    if as_json:
        print_json({name: {"version": version, **body} for name, (version, body) in found.items()})
        return
    print_table(
        ["policy", "version", "kind", "settings"],
        [[name, version, body.get("kind", ""), _settings(body)] for name, (version, body) in found.items()],
        empty="No policy is in force: `uniroute topics --create` declares the default.",
    )


@command.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Not the one in force, but this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy's body, as a file for `policy apply` may hold it."""
    import yaml

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        history = {one.version: one for one in Policies(session).history(name)}
    if not history:
        raise UsageError(f"no policy is named {name!r}: `uniroute policy list` shows those there are")
    found = history.get(version or max(history))
    if found is None:
        raise UsageError(f"policy {name} has no version {version}: there are 1 to {max(history)}")
    if as_json:
        print_json(
            {"name": name, "version": found.version, "created_at": found.created_at, "body": found.body}
        )
    else:
        typer.echo(yaml.safe_dump({name: found.body}, sort_keys=False), nl=False)


@command.command("history")
def history(
    name: Annotated[str, typer.Argument(help="The policy's name.")], *, as_json: AsJson = False
) -> None:
    """List every version of a policy, newest first."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = Policies(session).history(name)[::-1]
    if not found:
        raise UsageError(f"no policy is named {name!r}: `uniroute policy list` shows those there are")
    if as_json:
        print_json(
            [{"version": one.version, "created_at": one.created_at, "body": one.body} for one in found]
        )
        return
    print_table(
        ["version", "since", "kind", "settings"],
        [
            [one.version, f"{one.created_at:%F %T}", one.body.get("kind", ""), _settings(one.body)]
            for one in found
        ],
        empty="",
    )


@command.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Prompts ask for it by model auto/NAME.")] = "default",
    *,
    error_per_usd: Annotated[float, typer.Option(help="Lambda: probability of error that a USD is worth.")],
) -> None:
    """Put a lambda in force: least predicted error + lambda * cost. For any other kind: `policy apply`."""
    from workers.installation import set_policy

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        version = set_policy(Policies(session), name, error_per_usd=error_per_usd)
    typer.echo(f"Policy {name} version {version} is in force.")


@command.command("plan")
def plan(
    file: File, *, last: Last = None, since: Since = None, until: Until = None, as_json: AsJson = False
) -> None:
    """Decide the last prompts again as if FILE were in force, and show what would move."""
    from workers.cli.plans import describe_changes, describe_traffic, print_plan
    from workers.policies import load_policy_bodies
    from workers.replay import complete_presets, hash_plan, name_of, plan_from_now, read_decisions

    settings, declared = read_settings(), load_policy_bodies(file)
    records = read_decisions(settings, last=last, since=read_moment(since), until=read_moment(until))
    with open_engine(settings) as engine:
        bodies = complete_presets(engine, declared)
        with transaction(engine) as session:
            before = {name: body for name, (_, body) in Policies(session).current().items()}
        found, state = plan_from_now(engine, records, bodies=bodies)
    name = hash_plan(bodies, records, found, state_version=state)
    changes = describe_changes(before, bodies)
    if as_json:
        print_json({"hash": name, "changes": changes, **found.as_json()})
        return
    typer.echo("\n".join(changes) if changes else "  no policy would change")
    for unasked in sorted(bodies.keys() - {name_of(record.policy) for record in records}):
        typer.echo(f"  none of these decisions was made by {unasked}")
    typer.echo(f"\n{describe_traffic(records, last=last, windowed=bool(since or until))}")
    print_plan(found)
    window = "".join(
        f" {option} {value}"
        for option, value in (("--last", last), ("--from", since), ("--to", until))
        if value
    )
    typer.echo(f"\nPlan {name}. To apply it: uniroute policy apply {file} --plan {name}{window}")


@command.command("apply")
def apply(
    file: File,
    *,
    plan: Annotated[
        str | None, typer.Option(help="Only as long as this plan holds; give its --last, --from and --to.")
    ] = None,
    last: Last = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Put the policies of FILE in force, all or none; others stay. Routers follow within a second."""
    from workers.policies import load_policy_bodies
    from workers.replay import (
        STALE,
        apply_policies,
        complete_presets,
        hash_plan,
        plan_from_now,
        read_decisions,
    )

    settings, declared = read_settings(), load_policy_bodies(file)
    with open_engine(settings) as engine:
        bodies, state = complete_presets(engine, declared), None
        if plan is not None:
            records = read_decisions(settings, last=last, since=read_moment(since), until=read_moment(until))
            found, state = plan_from_now(engine, records, bodies=bodies)
            if hash_plan(bodies, records, found, state_version=state) != plan:
                raise UsageError(STALE)
        versions = apply_policies(engine, bodies, state_version=state)
    if as_json:
        print_json(versions)
    for name, version in {} if as_json else versions.items():
        typer.echo(f"Policy {name} version {version} is in force.")


@command.command("evaluate")
def evaluate(
    file: File,
    *,
    last: Last = None,
    since: Since = None,
    until: Until = None,
    policy: Annotated[str | None, typer.Option(help="Of these, only decisions that it made.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of these, only decisions for its prompts.")] = None,
    clip: Annotated[
        float | None, typer.Option(min=1.0, help="Greatest weight of a decision; a little bias, less spread.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Estimate from logged decisions and their feedback what the policies of FILE would have been worth.

    IPS, SNIPS and the doubly robust estimate with 95 % intervals, each policy on all decisions that have
    feedback, or on those of `--policy` and `--tenant`. No number where a decision could never have been what
    the policy would choose, but which decisions those are, and exit code 1: log with `explore`.
    """
    from workers.cli.valuations import print_valuation
    from workers.policies import load_policy_bodies
    from workers.replay import complete_presets, name_of, read_decisions, value_policies

    settings, declared = read_settings(), load_policy_bodies(file)
    records = [
        record
        for record in read_decisions(settings, last=last, since=read_moment(since), until=read_moment(until))
        if policy in {None, name_of(record.policy)} and tenant in {None, record.tenant}
    ]
    with open_engine(settings) as engine:
        bodies = complete_presets(engine, declared)
        found = value_policies(engine, records, bodies=bodies, clip=float("inf") if clip is None else clip)
    if as_json:
        print_json(found.as_json())
    else:
        print_valuation(found)
    if any(one.value is None for one in found.policies.values()):
        raise typer.Exit(FAILED)


@command.command("rollback")
def rollback(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    *,
    to: Annotated[int | None, typer.Option(min=1, help="Its version; the one before, if not given.")] = None,
) -> None:
    """Put an older version of a policy in force again, as a new version."""
    from workers.replay import roll_back

    with open_engine(read_settings()) as engine:
        old, new = roll_back(engine, name, version=to)
    typer.echo(f"Policy {name} version {new} is in force, with the body of version {old}.")


def _settings(body: dict[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in body.items() if key != "kind")
