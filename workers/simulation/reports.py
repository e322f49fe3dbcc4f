"""A simulation as JSON and as tables."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from workers.simulation.policies import Outcome, Simulation, Single
from workers.simulation.recorded import Recorded
from workers.simulation.trials import TrialsOf

#: Columns of a terminal that the tables need.
WIDTH = 110
CONVENTIONS = {
    "cost_usd": "recorded USD of all calls over the traffic",
    "quality": "mean recorded score; a prompt that nothing was affordable for scores 0",
    "target": "what was promised: the least mean quality, or the USD of a budget; null where nothing was",
    "target_met": "quality at least the target; USD within 1 % of it, or less with nothing better to buy",
    "kept": "target met and no limit broken: a budget's ceiling is the budget itself",
    "unserved": "prompts for which nothing fitted into what was left of a budget; they score 0",
    "live": "the body by which an installation would choose the same; calibrated numbers included",
    "best_single": "the LLM with the best mean score on the traffic",
    "cost_calibration": "predicted / actual USD on all test prompts, lengths learned from train or from val",
    "protocol": "map, prior of error rates and lengths from train; error rates from the labels, on val "
    "prompts; calibration on train and the other val prompts; traffic from test",
}


def make_report(recorded: Recorded, simulation: Simulation, trials: TrialsOf | None = None) -> dict[str, Any]:
    """Give the report; every number is finite or null."""
    report: dict[str, Any] = {
        "dataset": recorded.dataset,
        "protocol": {
            "prompts": simulation.prompts,
            "labels": simulation.labels,
            "llms": len(recorded.llms),
            "splits": {
                "train": len(recorded.train),
                "val": len(recorded.val),
                "test": len(recorded.test),
            },
            "prompts_without_every_score": recorded.incomplete,
            "cost_source": recorded.cost_source,
            "conventions": CONVENTIONS,
        },
        "policies": {name: _as_json(outcome) for name, outcome in simulation.policies.items()},
        "best_single": _single(simulation.best_single),
        "cheapest": _single(simulation.cheapest),
        "cost_calibration": calibrations(recorded),
    }
    if trials is not None:
        report["trials"] = trials
    return report


def calibrations(recorded: Recorded) -> dict[str, dict[str, float]]:
    """Give predicted / actual USD per LLM on test, after learning lengths from train, and from val."""
    by_train = recorded.calibrate_costs(recorded.train, recorded.test)
    by_val = recorded.calibrate_costs(recorded.val, recorded.test)
    return {
        name: {"train": float(one), "val": float(other)}
        for name, one, other in zip(recorded.names, by_train, by_val, strict=True)
    }


def render(recorded: Recorded, simulation: Simulation, trials: TrialsOf | None = None) -> Group:
    """Give the tables."""
    best = simulation.best_single
    table = Table(box=None, header_style="bold", title="policies", title_justify="left")
    table.add_column("policy", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for column in ("USD", "of best", "quality", "- best", "target", "met", "kept"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in simulation.policies.items():
        table.add_row(
            name,
            one.prepared.kind,
            f"{one.cost_usd:.4f}",
            _share(one.cost_usd, best.cost_usd),
            f"{one.quality:.4f}",
            f"{one.quality - best.quality:+.4f}",
            "-" if one.target is None else f"{one.target:.4f}",
            {None: "-", True: "yes", False: "no"}[one.target_met],
            "yes" if one.kept else "no",
        )
    for kind, single in (("best single", best), ("cheapest", simulation.cheapest)):
        table.add_row(
            single.llm,
            kind,
            f"{single.cost_usd:.4f}",
            _share(single.cost_usd, best.cost_usd),
            f"{single.quality:.4f}",
            f"{single.quality - best.quality:+.4f}",
            *["-"] * 3,
            style="dim",
        )
    parts: list[Text | Table] = [Text(_describe(recorded, simulation), style="dim"), table]
    if trials is not None:
        parts.append(_table_of_trials(trials))
    parts.append(_table_of_calibration(calibrations(recorded)))
    return Group(*parts)


def _describe(recorded: Recorded, simulation: Simulation) -> str:
    text = (
        f"{recorded.dataset}: {simulation.prompts} test prompts to {len(recorded.llms)} LLMs, each known by "
        f"{simulation.labels} val labels; map and lengths from {len(recorded.train)} train prompts; policies "
        f"calibrated on train and the other val prompts; costs: {recorded.cost_source}."
    )
    if recorded.incomplete:
        text += f" {recorded.incomplete} prompts lack a score of some LLM and were left out."
    return text


def _table_of_calibration(ratios: Mapping[str, Mapping[str, float]]) -> Table:
    title = "predicted / actual USD on test, lengths learned from"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    table.add_column("LLM")
    table.add_column("train", justify="right")
    table.add_column("val", justify="right")
    for name, one in ratios.items():
        table.add_row(name, f"{one['train']:.3f}", f"{one['val']:.3f}")
    return table


def _table_of_trials(trials: TrialsOf) -> Table:
    title = f"{trials['count']} trials: val and test prompts dealt anew"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    table.add_column("policy")
    for column in ("kept", "- best, mean", "least", "of best, mean", "most"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in trials["policies"].items():
        table.add_row(
            name,
            f"{one['kept_share']:.1%}",
            f"{one['quality_minus_best']['mean']:+.4f}",
            f"{one['quality_minus_best']['least']:+.4f}",
            f"{one['cost_of_best']['mean']:.1%}",
            f"{one['cost_of_best']['most']:.1%}",
        )
    return table


def _as_json(one: Outcome) -> dict[str, Any]:
    return {
        "kind": one.prepared.kind,
        "cost_usd": one.cost_usd,
        "quality": one.quality,
        "target": None if one.target is None or not math.isfinite(one.target) else one.target,
        "target_met": one.target_met,
        "limits_kept": one.limits_kept,
        "kept": one.kept,
        "unserved": one.unserved,
        "calls": dict(one.calls),
        "live": None if one.prepared.live is None else _finite(one.prepared.live),
    }


def _finite(body: Mapping[str, Any]) -> dict[str, Any]:
    """Give a body with numbers that JSON can hold: a lambda of infinity is one that nothing outweighs."""
    return {key: 1e15 if value == math.inf else value for key, value in body.items()}


def _single(one: Single) -> dict[str, Any]:
    return {"llm": one.llm, "cost_usd": one.cost_usd, "quality": one.quality}


def _share(cost: float, of: float) -> str:
    return f"{cost / of:.1%}" if of > 0 else "-"
