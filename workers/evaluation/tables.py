"""Findings as tables for a terminal."""

import math
from collections.abc import Callable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from routing.evaluation import Evaluation, MethodSummary
from routing.evaluation.protocol import RAW_UNIROUTE
from workers.evaluation.study import REFERENCE_ROWS, Findings

#: The number of labels at which raw UniRoute is the mark to match.
MARK_LABELS = 400
#: Of the table of measures, after the method.
COLUMNS = ("Area", "95 %", "hull", "- raw", "95 %", "hull", "QNC", "reached", "peak", "saved", "us/prompt")
#: The table of measures needs so many columns of the terminal.
WIDTH = 126


def render_findings(findings: Findings) -> Group:
    """One table of all measures per number of labels; with several numbers, also labels x methods."""
    parts: list[Table | Text] = [Text(describe(findings), style="dim")]
    parts += [_table_of_measures(evaluation) for evaluation in findings.evaluations]
    if findings.study.cost != "mean":
        parts += [_table_of_costs(evaluation) for evaluation in findings.evaluations]
    if len(findings.evaluations) > 1:
        parts.append(_table_of_labels(findings.evaluations))
    parts.append(
        Text(
            "Area: mean of the non-decreasing envelope from the pool's cheapest to its dearest LLM; "
            "hull: with random mixing. - raw: minus uniroute-kmeans. [ ] 95 %: by drawing test prompts anew, "
            "the same for all methods.",
            style="dim",
        )
    )
    return Group(*parts)


def describe(findings: Findings) -> str:
    """What was compared on what, in two sentences; says where costs come from and what was left out."""
    study = findings.study
    text = (
        f"{findings.dataset}: {len(findings.llms)} LLMs; {findings.train} train, {findings.val} val, "
        f"{findings.test} test prompts. {study.trials} trials, seed {study.seed}; "
        f"costs: {findings.cost_source}, rule {study.cost}; embedder {findings.embedder}; "
        f"clusters {study.clusters or 'auto'}; curve {study.curve}."
    )
    if findings.incomplete:
        text += f" {findings.incomplete} prompts lack a score of some LLM and were left out."
    short = [one for one in findings.evaluations if one.labels_used < one.labels]
    if short:
        text += f" Asked for {short[0].labels} labels, but val has {short[0].labels_used} prompts."
    return text


def _table_of_measures(evaluation: Evaluation) -> Table:
    table = Table(box=None, header_style="bold", title=f"{evaluation.labels} labels", title_justify="left")
    table.add_column("method", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    by_area = sorted(evaluation.methods.items(), key=lambda item: -item[1].area)
    for name, summary in by_area:
        style = "dim" if name in REFERENCE_ROWS else "bold" if name == "default" else ""
        table.add_row(name, *_cells(summary, is_raw=name == RAW_UNIROUTE), style=style)
    return table


def _cells(one: MethodSummary, *, is_raw: bool) -> list[str]:
    difference = [_signed(one.minus_uniroute), _interval(one.minus_uniroute_ci, _signed)]
    return [
        _plain(one.area),
        _interval(one.area_ci, _plain),
        _plain(one.area_hull),
        *(["", "", ""] if is_raw else [*difference, _signed(one.minus_uniroute_hull)]),
        f"{one.qnc:.2f}" if math.isfinite(one.qnc) else "-",
        f"{one.qnc_reached:.0%}",
        _plain(one.peak),
        f"{one.cost_save:.1%}",
        f"{one.microseconds_per_prompt:.1f}" if math.isfinite(one.microseconds_per_prompt) else "-",
    ]


def _plain(value: float) -> str:
    """Four decimals without the leading zero, as papers print shares: .5480."""
    return f"{value:.4f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("0.", ".", 1)


def _interval(ends: tuple[float, float], show: Callable[[float], str]) -> str:
    return f"[{show(ends[0])} {show(ends[1])}]"


def _table_of_costs(evaluation: Evaluation) -> Table:
    """What it is worth to know each prompt's own cost, by method."""
    table = Table(
        box=None,
        header_style="bold",
        title=f"{evaluation.labels} labels: Area minus that with the LLMs' mean costs",
        title_justify="left",
    )
    for name in ("method", "- mean cost", "95 %, prompts", "95 %, trials"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    known = [item for item in evaluation.methods.items() if math.isfinite(item[1].minus_mean_cost)]
    for name, one in sorted(known, key=lambda item: -item[1].area):
        by_prompts, by_trials = one.minus_mean_cost_ci, one.minus_mean_cost_trials_ci
        table.add_row(
            name,
            _signed(one.minus_mean_cost),
            _interval(by_prompts, _signed),
            _interval(by_trials, _signed) if math.isfinite(by_trials[0]) else "-",
            style="bold" if name == "default" else "",
        )
    return table


def _table_of_labels(evaluations: Sequence[Evaluation]) -> Table:
    """Area by labels and method, and the labels at which each method matches raw UniRoute at 400."""
    mark = next((one for one in evaluations if one.labels == MARK_LABELS), evaluations[-1])
    goal = mark.methods[RAW_UNIROUTE].area
    ordered = sorted(evaluations, key=lambda one: one.labels)
    title = f"Area by labels; matches: labels to reach {RAW_UNIROUTE} at {mark.labels} ({goal:.4f})"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    table.add_column("method")
    for one in ordered:
        table.add_column(str(one.labels), justify="right")
    table.add_column("matches", justify="right")
    names = sorted(mark.methods, key=lambda name: -mark.methods[name].area)
    for name in (name for name in names if name not in REFERENCE_ROWS):
        areas = [one.methods[name].area for one in ordered]
        matched = match_labels([one.labels for one in ordered], areas, goal)
        shown = "never" if matched is None else f"{matched:.0f}"
        table.add_row(name, *map(_plain, areas), shown)
    return table


def match_labels(labels: Sequence[int], areas: Sequence[float], goal: float) -> float | None:
    """Return the least number of labels at which the Area reaches ``goal``.

    ``labels`` ascending; between known ones the Area is straight in log labels. The least of them if the goal
    is reached there already; ``None`` if it never is.
    """
    for place, (count, area) in enumerate(zip(labels, areas, strict=True)):
        if area < goal:
            continue
        if place == 0:
            return float(count)
        before, below = labels[place - 1], areas[place - 1]
        share = (goal - below) / (area - below)
        return float(before * (count / before) ** share)
    return None
