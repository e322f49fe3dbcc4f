"""The report of a run: what was counted, and what it is worth beside the alternatives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.local.demo.traffic import Auditor, Trace, Traffic
from workers.local.simulated.answers import AnswerSource, Truth

Report = dict[str, Any]


def build_report(
    source: AnswerSource,
    traffic: Traffic,
    auditor: Auditor,
    *,
    feedback_applied: int,
    error_rate_versions: int,
    dead_letters: int,
) -> Report:
    """Put the figures of a run together.

    USD and quality of the alternatives are those of the same prompts, had each gone there. ``best_single``
    and ``cheapest`` are chosen over all LLMs, the late one included; ``random`` is their mean; ``oracle``
    picks, for each prompt, the cheapest of those that do best.
    """
    traces = traffic.traces
    answered = [trace for trace in traces.values() if trace.replied_at is not None]
    ids = list(traces)
    names = [llm.name for llm in source.llms]
    truth = source.truth(ids)
    best, cheapest = _best_single(truth), int(truth.costs_usd.sum(axis=0).argmin())
    return {
        "source": source.name,
        "simulated": True,
        "prompts": len(traces),
        "replies": len(answered),
        "lost": sum(trace.replies == 0 for trace in traces.values()),
        "duplicate_replies": sum(max(0, trace.replies - 1) for trace in traces.values()),
        "duplicate_decisions": sum(count - 1 for count in auditor.decisions.values()),
        "error_replies": sum(trace.error is not None for trace in answered),
        "dead_letters": dead_letters,
        "feedback_applied": feedback_applied,
        "error_rate_versions": error_rate_versions,
        "seconds": round(traffic.seconds, 3),
        "prompts_per_second": round(len(answered) / traffic.seconds, 2) if traffic.seconds else 0.0,
        "latency_ms": _latencies(traces, auditor),
        "routed": {
            "cost_usd": sum(trace.cost_usd for trace in answered),
            "quality": _mean([trace.score for trace in answered]),
        },
        "best_single": {"llm": names[best], **_single(truth, best)},
        "cheapest": {"llm": names[cheapest], **_single(truth, cheapest)},
        "random": {
            "cost_usd": float(truth.costs_usd.mean(axis=1).sum()),
            "quality": float(truth.scores.mean()),
        },
        "oracle": _oracle(truth),
        "late_llm": source.late_llm,
        "llms": [_llm(name, list(traces.values())) for name in names],
        "notes": list(source.notes),
    }


def _best_single(truth: Truth) -> int:
    quality = truth.scores.mean(axis=0)
    costs = truth.costs_usd.sum(axis=0)
    return int(np.lexsort((costs, -quality))[0])


def _single(truth: Truth, column: int) -> dict[str, float]:
    return {
        "cost_usd": float(truth.costs_usd[:, column].sum()),
        "quality": float(truth.scores[:, column].mean()),
    }


def _oracle(truth: Truth) -> dict[str, float]:
    best = truth.scores.max(axis=1, keepdims=True)
    costs: NDArray[np.float64] = np.where(truth.scores >= best, truth.costs_usd, np.inf)
    return {"cost_usd": float(costs.min(axis=1).sum()), "quality": float(best.mean())}


def _llm(name: str, traces: Sequence[Trace]) -> dict[str, Any]:
    own = [trace for trace in traces if trace.llm == name and trace.error is None]
    before = [trace for trace in traces if not trace.after_join]
    after = [trace for trace in traces if trace.after_join]
    return {
        "name": name,
        "simulated": True,
        "share": len(own) / len(traces) if traces else 0.0,
        "cost_usd": sum(trace.cost_usd for trace in own),
        "quality": _mean([trace.score for trace in own]),
        "share_before_join": _mean([trace.llm == name for trace in before]) or 0.0,
        "share_after_join": _mean([trace.llm == name for trace in after]) or 0.0,
    }


def _latencies(traces: dict[str, Trace], auditor: Auditor) -> dict[str, float | None]:
    dispatch = [
        auditor.decided_at[prompt_id] - trace.submitted_at
        for prompt_id, trace in traces.items()
        if prompt_id in auditor.decided_at
    ]
    reply = [
        trace.replied_at - trace.submitted_at for trace in traces.values() if trace.replied_at is not None
    ]
    return {
        f"{name}_p{percent}": round(1000 * float(np.percentile(seconds, percent)), 2) if seconds else None
        for name, seconds in (("dispatch", dispatch), ("reply", reply))
        for percent in (50, 99)
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
