"""``uniroute explain``: what would be chosen for a prompt now, and why."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from routing.decisions import CandidateFacts
    from workers.explaining import Explained

command = typer.Typer()


@command.command("explain")
def explain(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    *,
    policy: Annotated[
        str | None, typer.Option(help="The policy to decide by; the tenant's default, if not given.")
    ] = None,
    tenant: Annotated[
        str, typer.Option(help="Whose prompt it would be: with its LLMs, policies and budget.")
    ] = "default",
    max_cost_usd: Annotated[float | None, typer.Option(help="The most the answer may cost.")] = None,
    max_error: Annotated[float | None, typer.Option(help="The greatest predicted error, 0..1.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds that are left to answer.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of answer.")] = None,
    candidates: Annotated[str, typer.Option(help="Only these LLMs, separated by commas.")] = "",
    excluded: Annotated[str, typer.Option(help="None of these LLMs, separated by commas.")] = "",
    capabilities: Annotated[str, typer.Option(help="tools, vision, json, ..., by commas.")] = "",
    languages: Annotated[str, typer.Option(help="Languages it must know, by commas.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the clusters of a prompt, every LLM with its predicted error and cost, and why one wins."""
    from routing.requests import Limits
    from workers.embedding.loading import open_configured
    from workers.explaining import explain_prompt

    settings = read_settings()
    limits = Limits(
        max_cost_usd=max_cost_usd,
        max_error=max_error,
        max_seconds=max_seconds,
        max_output_tokens=max_output_tokens,
        candidates=_names(candidates) or None,
        excluded=_names(excluded),
        capabilities=_names(capabilities),
        languages=_names(languages),
    )
    with open_engine(settings) as engine:
        found = explain_prompt(
            engine,
            sys.stdin.read() if prompt == "-" else prompt,
            open_embedder=partial(open_configured, settings),
            policy=policy,
            limits=limits,
            tenant=tenant,
            now=datetime.now(UTC),
        )
    if as_json:
        print_json(_plain(found))
    else:
        _print(found)


def _print(found: "Explained") -> None:
    from workers.explaining import interval

    explanation = found.explanation
    settings = ", ".join(f"{key}: {value}" for key, value in found.body.items())
    typer.echo(f"policy {found.policy} ({settings}); {found.input_tokens:g} tokens of prompt")
    clusters = ", ".join(f"{cluster} ({weight:.0%})" for cluster, weight in explanation.clusters)
    typer.echo(f"clusters {clusters} of map {explanation.map_version}")
    left = "" if found.left_usd is None else f"; {found.left_usd:.6g} USD left of its budget"
    typer.echo(f"tenant {found.tenant}{left}\n")
    columns: dict[str, Callable[[CandidateFacts], str]] = {
        "LLM": lambda one: one.name,
        "error": lambda one: f"{one.predicted_error:.3f}",
        "90 %": lambda one: "-" if (bounds := interval(one)) is None else f"{bounds[0]:.3f}..{bounds[1]:.3f}",
        "USD": lambda one: f"{one.cost_usd:.6f}",
        "USD, most": lambda one: "-" if one.ceiling_usd == one.cost_usd else f"{one.ceiling_usd:.6f}",
        "s, most": lambda one: "-" if one.seconds is None else f"{one.seconds:.2f}",
        "score": lambda one: "-" if one.score is None else f"{one.score:.6f}",
        "verdict": lambda one: one.verdict if one.removed_by is None else f"removed: {one.removed_by}",
        "break-even": lambda one: "-" if one.break_even is None else f"{one.break_even:.4g}",
    }
    shown = {name: [tell(one) for one in explanation.candidates] for name, tell in columns.items()}
    told = {name: values for name, values in shown.items() if set(values) != {"-"}}
    print_table(list(told), list(zip(*told.values(), strict=True)), empty="No LLM is registered.")
    _print_stages(found)
    if len(found.chances) > 1:
        shares = ", ".join(f"{name} {chance:.1%}" for name, chance in found.chances.items())
        typer.echo(f"\ndrawn: {shares}")
    typer.echo(f"\n{found.reason}")


def _print_stages(found: "Explained") -> None:
    if not found.stages:
        return
    typer.echo("\nThe cascade asks, as far as an answer is not sure enough:")
    print_table(
        ["LLM", "asked", "error", "USD", "USD so far", "USD, most", "scorer, most"],
        [
            [
                stage.llm,
                "as answers are" if stage.asked is None else _tell_chance(*stage.asked),
                f"{stage.predicted_error:.3f}",
                f"{stage.cost_usd:.6f}",
                f"{stage.cost_so_far_usd:.6f}",
                f"{stage.ceiling_usd:.6f}",
                f"{stage.scoring_usd:.6f}" if stage.scoring_usd else "-",
            ]
            for stage in found.stages
        ],
        empty="",
    )


def _tell_chance(least: float, most: float) -> str:
    return f"{least:.0%}" if least == most else f"{least:.0%} to {most:.0%}"


def _plain(found: "Explained") -> dict[str, object]:
    from workers.explaining import interval

    explanation = found.explanation
    return {
        "llm": explanation.llm,
        "reason": found.reason,
        "tenant": {"name": found.tenant, "left_usd": found.left_usd, "short": found.short},
        "policy": found.policy,
        "pacing": None if found.pacing is None else asdict(found.pacing),
        "body": found.body,
        "propensity": explanation.propensity,
        "chances": found.chances,
        "stages": [asdict(stage) for stage in found.stages],
        "input_tokens": found.input_tokens,
        "clusters": [{"cluster": cluster, "weight": weight} for cluster, weight in explanation.clusters],
        "candidates": [{**asdict(one), "interval": interval(one)} for one in explanation.candidates],
        "removed": {one.name: one.removed_by for one in explanation.candidates if one.removed_by is not None},
        "versions": {"map": explanation.map_version, **asdict(explanation.versions)},
    }


def _names(text: str) -> frozenset[str]:
    return frozenset(name for part in text.split(",") if (name := part.strip()))
