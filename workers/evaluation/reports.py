"""Findings as JSON: every number finite or null, so that any reader can take it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from routing.evaluation import Evaluation, MethodSummary
from workers.errors import UsageError
from workers.evaluation.study import Findings

#: What a method's entry holds, in this order.
METHOD_FIELDS = (
    "area",
    "area_ci",
    "area_hull",
    "area50",
    "minus_uniroute",
    "minus_uniroute_ci",
    "minus_uniroute_trials_ci",
    "qnc",
    "qnc_reached",
    "peak",
    "aiq",
    "cost_save",
    "seconds_fit",
    "microseconds_per_prompt",
)
#: After them where the rule knows each prompt's own cost.
COST_FIELDS = ("minus_mean_cost", "minus_mean_cost_ci", "minus_mean_cost_trials_ci")
CONVENTIONS = {
    "area": "mean of the non-decreasing step envelope over cost from the pool's cheapest to its dearest LLM",
    "area_ci": "95 %: paired bootstrap over test prompts, the trials' pools and labels as drawn",
    "area_hull": "the same on the concave hull: operating points may be mixed at random",
    "area50": "Area over the cheaper half of the cost range",
    "minus_uniroute": "mean over trials of Area minus uniroute-kmeans's Area in the same trial",
    "minus_uniroute_ci": "95 %: paired bootstrap over test prompts, the trials' pools and labels as drawn",
    "minus_uniroute_trials_ci": "95 %: Student's t over trials, the test prompts as they are; null with one",
    "cost_rule": "mean: each LLM's mean over its labelled prompts; prompt: each prompt's own expectation",
    "minus_mean_cost": "with cost_rule prompt: Area minus the same method's with cost_rule mean, as above",
    "qnc": "least cost reaching the best single LLM's quality / its cost; mean of the trials that reach it",
    "qnc_reached": "share of the trials that reach it",
    "aiq": "RouterBench: the hull Area with the pool's cost range as [c_min, c_max]",
    "cost_save": "1 - least cost within .01 of the best single LLM's quality / its cost; 0 if never",
    "oracle": "least recorded error + lambda * recorded cost per prompt",
    "best-single": "the pool's best LLM on the test prompts where the budget buys it, else its cheapest",
    "random": "an LLM drawn evenly per prompt, in expectation; its Area is its quality",
}


def make_report(findings: Findings) -> dict[str, object]:
    """Return the report; ``methods`` are those at the first number of labels, ``by_labels`` at each."""
    study, first = findings.study, findings.evaluations[0]
    report: dict[str, object] = {
        "dataset": findings.dataset,
        "protocol": {
            "labels": first.labels,
            "labels_used": first.labels_used,
            "clusters": "auto" if study.clusters is None else study.clusters,
            "unseen": study.unseen,
            "trials": study.trials,
            "seed": study.seed,
            "embedder": findings.embedder,
            "cost_source": findings.cost_source,
            "cost_rule": study.cost,
            "curve": study.curve,
            "llms": len(findings.llms),
            "prompts": {"train": findings.train, "val": findings.val, "test": findings.test},
            "prompts_without_every_score": findings.incomplete,
            "conventions": CONVENTIONS,
        },
        "methods": _by_method(first),
    }
    if len(findings.evaluations) > 1:
        report["by_labels"] = {str(one.labels): _by_method(one) for one in findings.evaluations}
    return report


def write_report(findings: Findings, file: Path) -> None:
    """Write the report; ``UsageError`` if the place cannot be written."""
    text = json.dumps(make_report(findings), indent=2, allow_nan=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report: {file} cannot be written: {error.strerror}") from error


def _by_method(evaluation: Evaluation) -> Mapping[str, object]:
    return {name: _as_json(summary) for name, summary in evaluation.methods.items()}


def _as_json(summary: MethodSummary) -> dict[str, object]:
    fields = (*METHOD_FIELDS, *COST_FIELDS) if math.isfinite(summary.minus_mean_cost) else METHOD_FIELDS
    values = {field: getattr(summary, field) for field in fields}
    return {
        field: [_finite(end) for end in value] if isinstance(value, tuple) else _finite(value)
        for field, value in values.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
