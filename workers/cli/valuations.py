"""Prints what policies would have been worth on logged traffic."""

import typer

from routing.evaluation.off_policy import Estimate
from workers.cli.console import print_table
from workers.replay import Valuation

_SHOWN = 20


def print_valuation(found: Valuation) -> None:
    """Print the estimates of each policy, then those that cannot be given and why."""
    typer.echo(
        f"{found.used} of {found.decisions} decisions are used; {found.without_feedback} have no feedback, "
        f"{found.not_repeatable} cannot be made again."
    )
    typer.echo()
    print_table(
        ["policy", "DR", "SNIPS", "IPS", "effective size", "USD a prompt"],
        [
            ["(as logged)", *[_show(found.logged)] * 3, found.used, f"{found.logged_usd:.6f}"],
            *(
                [
                    name,
                    _show(one.value.dr),
                    _show(one.value.snips),
                    _show(one.value.ips),
                    f"{one.value.effective_size:.0f}",
                    f"{one.usd:.6f}",
                ]
                for name, one in found.policies.items()
                if one.value is not None
            ),
        ],
        empty="",
    )
    for name, one in found.policies.items():
        if one.value is None:
            typer.echo(f"\n{name}: no estimate. {one.refusal}")
            for prompt_id in one.lacking[:_SHOWN]:
                typer.echo(f"  {prompt_id}")
            if len(one.lacking) > _SHOWN:
                typer.echo(f"  and {len(one.lacking) - _SHOWN} more: --json lists them all")


def _show(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{estimate.value:.4f} [{low:.4f}, {high:.4f}]"
