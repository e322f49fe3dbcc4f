"""``uniroute policy``: how predicted error and cost are weighed."""

from typing import Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.storage.engine import transaction
from workers.storage.policies import Policies

command = typer.Typer(no_args_is_help=True, help="Set and list policies.")


@command.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="Prompts ask for it by model auto/NAME.")] = "default",
    *,
    error_per_usd: Annotated[float, typer.Option(help="Lambda: probability of error that a USD is worth.")],
) -> None:
    """Put a policy in force: least predicted error + lambda * cost."""
    from workers.installation import set_policy

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        version = set_policy(Policies(session), name, error_per_usd=error_per_usd)
    typer.echo(f"Policy {name} version {version} is in force.")


@command.command("list")
def list_policies(*, as_json: AsJson = False) -> None:
    """List the policies in force."""
    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found = Policies(session).current()
    if as_json:
        print_json({name: {"version": version, **body} for name, (version, body) in found.items()})
        return
    print_table(
        ["policy", "version", "kind", "error per USD"],
        [[name, version, body["kind"], body["error_per_usd"]] for name, (version, body) in found.items()],
        empty="No policy is in force: `uniroute topics --create` declares the default.",
    )
