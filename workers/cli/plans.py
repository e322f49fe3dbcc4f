"""Prints plans: by LLM, tenant and cluster, what would move, before anything is applied."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from workers.cli.console import print_table
from workers.messages import DecisionRecord
from workers.replay import LAST_DECISIONS, Move, Plan


def describe_traffic(records: Sequence[DecisionRecord], *, last: int | None, windowed: bool) -> str:
    """Say how many decisions were decided again, when they were made, and whether a number cut them short."""
    if not records:
        return "No decision was made in that time." if windowed else "No decision is logged."
    most = last or (None if windowed else LAST_DECISIONS)
    cut = f"; --last {most} took no more" if len(records) == most else ""
    return (
        f"{len(records)} decisions made again, of {records[0].decided_at:%F %T} to "
        f"{records[-1].decided_at:%F %T}{cut}."
    )


def print_plan(plan: Plan) -> None:
    """Print the moves of a plan."""
    moved = plan.total.moved
    typer.echo(f"{moved} of {plan.decisions} decisions would go to another LLM.")
    if plan.left_out:
        typer.echo(
            f"{plan.left_out} more were left out: made on another cluster map, or for a policy long gone."
        )
    if not plan.decisions:
        return
    for kind, moves in (("LLM", plan.llms), ("tenant", plan.tenants), ("cluster", plan.clusters)):
        typer.echo()
        print_table(
            [kind, "share", "USD", "expected quality", "p95 latency", "moved"],
            [_row(name, move, plan.decisions) for name, move in sorted(moves.items(), key=_order)],
            empty="",
        )
    typer.echo()
    print_table(
        ["", "share", "USD", "expected quality", "p95 latency", "moved"],
        [_row("total", plan.total, plan.decisions)],
        empty="",
    )
    unknown = plan.total.before.unknown_share, plan.total.after.unknown_share
    if any(unknown):
        typer.echo(
            f"\np95 latency is that of the calls whose latency is known; of {unknown[0]:.1%} before and "
            f"{unknown[1]:.1%} after it is not."
        )


def describe_changes(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Give a line per policy that is new or differs, each key that does with both of its values."""
    lines = []
    for name, body in sorted(after.items()):
        was = before.get(name)
        if was is None:
            lines.append(f"  + {name}: {_inline(body)}")
        elif dict(was) != dict(body):
            keys = sorted(key for key in {*was, *body} if was.get(key) != body.get(key))
            moves = ", ".join(f"{key}: {was.get(key, '(none)')} -> {body.get(key, '(none)')}" for key in keys)
            lines.append(f"  ~ {name}: {moves}")
    return lines


def _inline(body: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in body.items())


def _order(named: tuple[str, Move]) -> tuple[float, str]:
    name, move = named
    return -max(move.before.decisions, move.after.decisions), name


def _row(name: str, move: Move, decisions: int) -> list[str]:
    before, after = move.before, move.after
    return [
        name,
        _change(before.decisions / decisions, after.decisions / decisions, "{:.1%}"),
        _change(before.usd, after.usd, "{:.6f}"),
        _change(_mean(before.quality, before.decisions), _mean(after.quality, after.decisions), "{:.3f}"),
        _change(before.p95_seconds, after.p95_seconds, "{:.2f} s"),
        str(move.moved),
    ]


def _mean(total: float, decisions: int) -> float | None:
    return total / decisions if decisions else None


def _change(before: float | None, after: float | None, form: str) -> str:
    was, now = ("-" if value is None else form.format(value) for value in (before, after))
    return was if was == now else f"{was} -> {now}"
