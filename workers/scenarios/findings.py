"""What a scenario found: one row per measure, with its interval, and the promise it was held against."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text
from scipy import stats

from routing.evaluation.bootstrap import Interval, paired_interval
from workers.errors import UsageError

NO_INTERVAL: Interval = (math.nan, math.nan)
#: How a measure is printed.
Unit = Literal["area", "share", "count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number."""

    name: str
    value: float
    #: 95 %; NaN where there is none.
    interval: Interval = NO_INTERVAL
    unit: Unit = "area"
    #: What was promised of it, and whether it holds; ``None`` where nothing was.
    promise: str | None = None
    kept: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioFindings:
    """All measures of one scenario on one set of outcomes."""

    scenario: str
    dataset: str
    trials: int
    seed: int
    #: What was done, in sentences.
    protocol: str
    measures: tuple[Measure, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise held."""
        return all(measure.kept is not False for measure in self.measures)

    def measure(self, name: str) -> Measure:
        """Give one measure by its name; ``KeyError`` if there is none."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(name)


def mean_of(
    name: str,
    values: Sequence[float],
    *,
    unit: Unit = "area",
    promise: str | None = None,
    kept: bool | None = None,
) -> Measure:
    """Give a mean over trials with Student's t interval; none with a single trial."""
    data = np.asarray(values, dtype=np.float64)
    interval = paired_interval(data) if len(data) > 1 else NO_INTERVAL
    return Measure(
        name=name, value=float(data.mean()), interval=interval, unit=unit, promise=promise, kept=kept
    )


def share_of(
    name: str, hits: int, of: int, *, promise: str | None = None, kept: bool | None = None
) -> Measure:
    """Give a share with the exact interval of Clopper & Pearson 1934."""
    low = float(stats.beta.ppf(0.025, hits, of - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, of - hits)) if hits < of else 1.0
    return Measure(name=name, value=hits / of, interval=(low, high), unit="share", promise=promise, kept=kept)


def rate_of(
    name: str,
    events: int,
    exposure: float,
    *,
    per: float,
    promise: str | None = None,
    kept: bool | None = None,
) -> Measure:
    """Give events per so much exposure, with the exact interval of Garwood 1936."""
    low = float(stats.chi2.ppf(0.025, 2 * events)) / 2 if events else 0.0
    high = float(stats.chi2.ppf(0.975, 2 * events + 2)) / 2
    scale = per / exposure
    return Measure(
        name=name,
        value=events * scale,
        interval=(low * scale, high * scale),
        unit="count",
        promise=promise,
        kept=kept,
    )


def render(findings: ScenarioFindings) -> Group:
    """Draw the table: measure, value, interval, promise, and whether it was kept."""
    table = Table(
        box=None,
        header_style="bold",
        title=f"{findings.scenario} on {findings.dataset}",
        title_justify="left",
    )
    table.add_column("measure")
    for column in ("value", "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("promised")
    table.add_column("")
    for one in findings.measures:
        low, high = one.interval
        interval = "" if math.isnan(low) else f"[{_show(low, one.unit)} {_show(high, one.unit)}]"
        verdict = "" if one.kept is None else "kept" if one.kept else "BROKEN"
        table.add_row(
            one.name,
            _show(one.value, one.unit),
            interval,
            one.promise or "",
            verdict,
            style="bold red" if one.kept is False else "",
        )
    return Group(
        table, Text(f"{findings.trials} trials, seed {findings.seed}. {findings.protocol}", style="dim")
    )


def _show(value: float, unit: Unit) -> str:
    if not math.isfinite(value):
        return "-"
    return {"area": f"{value:.4f}", "share": f"{value:.1%}", "count": f"{value:.2f}"}[unit]


def write_report(findings: Sequence[ScenarioFindings], file: Path) -> None:
    """Write ``as_text``; ``UsageError`` if the place cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(as_text(findings) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report: {file} cannot be written: {error.strerror}") from error


def as_text(findings: Sequence[ScenarioFindings]) -> str:
    """Give the findings as JSON, every number finite or null: one object, or a list of several."""
    reports = [_finite({**asdict(one), "kept": one.kept}) for one in findings]
    return json.dumps(reports[0] if len(reports) == 1 else reports, indent=2, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
