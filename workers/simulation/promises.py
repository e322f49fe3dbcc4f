"""Policies of a file as a simulation takes them: calibrated on evidence, with what they promise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError
from routing.policies import (
    Candidates,
    Fixed,
    Lagrangian,
    Policy,
    Threshold,
    calibrate_floor_on_labels,
    calibrate_threshold,
    certify_equivalence,
)
from workers.policies import COMMON_KEYS, check_llms, read_policy
from workers.policies.bodies import Body

Body_ = Mapping[str, Any]
#: Keys of budgets, of which one is given.
_BUDGET_KEYS = ("usd", "usd_per_hour", "usd_per_day", "share_of_best")
_PRESETS = ("performance-first", "balanced", "cost-first")
#: No lambda is greater that JSON holds; nothing outweighs it.
_GREATEST = 1e15
#: How sure a promise on realised quality is, unless the policy says otherwise.
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What policies may be calibrated on before traffic comes: prompts whose outcomes are known."""

    #: Train prompts and the val prompts that no LLM was taught on.
    known: Candidates
    #: (n, H), in 0..1.
    wrong: NDArray[np.float64]
    #: Of them, the rows that certificates are drawn from: prompts that nothing was learned from.
    untouched: NDArray[np.intp]

    @property
    def best(self) -> str:
        """The LLM with the least mean error."""
        return self.known.names[int(self.wrong.mean(axis=0).argmin())]

    @property
    def reference_cost_usd(self) -> float:
        """The dearest LLM's mean expected cost."""
        return float(self.known.costs.mean(axis=0).max()) or 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a policy says will hold over the traffic."""

    kind: Literal["nothing", "quality", "spend"]
    #: Of quality: the LLM whose mean quality is the measure, or ``None`` for the best single one.
    reference: str | None = None
    #: How far the mean quality may be below it.
    margin: float = 0.0


NOTHING = Promise(kind="nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """A budget for the whole traffic: USD, or a share of what the best single LLM would cost."""

    usd: float | None
    share_of_best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A policy that is ready for traffic."""

    kind: str
    policy: Policy
    promise: Promise
    #: Where a budget is spent.
    spending: Spending | None = None
    #: The body by which a live installation would do the same; ``None`` where there is none.
    live: Body_ | None = None


def prepare(name: str, body: Body_, evidence: Evidence) -> Prepared:
    """Check one policy's body and calibrate it.

    A body is what ``read_policy`` takes, or leaves out what evidence can tell. *quality-floor* (``d``, or
    ``tolerance``; ``over: traffic``): the thriftiest lambda whose mean realised quality is within d of the
    best single LLM's, on the mean, or with ``on: upper`` by its upper bound; ``over: prompt`` is what runs
    live, d of each prompt's least predicted error. *equivalent-to* (``delta``; ``reference``, the best single
    LLM if not given): the boldest policy that the evidence certifies with ``confidence``, or the reference
    alone; ``over: prompt`` as above. *budget*: ``usd``, ``usd_per_hour``, ``usd_per_day`` or
    ``share_of_best`` for the traffic as a whole. *threshold*: ``threshold``, or the ``strong_share`` that it
    should come to. Presets need no ``reference_cost_usd``.

    Raises ``InvalidInputError`` naming policy and key.
    """
    reader = _READERS.get(str(body.get("kind")), _as_declared)
    return reader(name, body, evidence)


def _as_declared(
    name: str, body: Body_, evidence: Evidence, *, kind: str | None = None, promise: Promise = NOTHING
) -> Prepared:
    """Take the policy that an installation builds from the same body, so that both choose the same."""
    declared = read_policy(name, body)
    if declared.cascade is not None:
        raise InvalidInputError(
            f"policy {name}",
            "recorded outcomes do not tell how sure an answer was, so no cascade can be simulated",
        )
    check_llms(name, declared, evidence.known.names)
    return Prepared(kind=kind or declared.kind, policy=declared.policy, promise=promise, live=dict(body))


def _preset(name: str, body: Body_, evidence: Evidence) -> Prepared:
    return _as_declared(name, {"reference_cost_usd": evidence.reference_cost_usd, **body}, evidence)


def _quality_floor(name: str, body: Body_, evidence: Evidence) -> Prepared:
    keys = ("d", "tolerance", "on", "confidence", "over", "error_per_usd")
    values = Body(name, body, keys=(*COMMON_KEYS, *keys))
    if ("d" in values) == ("tolerance" in values):
        raise values.error("give d, how far quality may fall below the best (or call it tolerance)")
    margin = values.number("d" if "d" in values else "tolerance", least=0.0, most=1.0)
    promise = Promise(kind="quality", margin=margin)
    over = values.choice("over", ("traffic", "prompt"), default="traffic")
    live: Body_ = {**body, "over": over}
    if over == "prompt" or "error_per_usd" in values:
        return _as_declared(name, live, evidence, promise=promise)
    _as_declared(
        name, {**live, "error_per_usd": 0.0}, evidence
    )  # whatever else is wrong with it is told first
    upper = values.choice("on", ("mean", "upper"), default="mean") == "upper"
    policy = calibrate_floor_on_labels(
        evidence.known, evidence.wrong, margin, confidence=_confidence(values) if upper else 0.5
    )
    if isinstance(policy, Fixed):
        live = {**_common(body), "kind": "fixed", "llm": policy.llm}
    else:
        live = {**live, "error_per_usd": min(policy.error_per_usd, _GREATEST)}
    return _as_declared(name, live, evidence, kind="quality-floor", promise=promise)


def _equivalent_to(name: str, body: Body_, evidence: Evidence) -> Prepared:
    values = Body(name, body, keys=(*COMMON_KEYS, "reference", "delta", "confidence", "over"))
    reference = values.llm("reference") if "reference" in values else evidence.best
    margin = values.number("delta", least=0.0, most=1.0)
    promise = Promise(kind="quality", reference=reference, margin=margin)
    over = values.choice("over", ("traffic", "prompt"), default="traffic")
    live: Body_ = {**body, "reference": reference, "over": "prompt"}
    declared = _as_declared(name, live, evidence, promise=promise)
    if over == "prompt":
        return declared
    rows = evidence.untouched
    policy = certify_equivalence(
        evidence.known.rows(rows),
        evidence.wrong[rows],
        reference=reference,
        margin=margin,
        confidence=_confidence(values),
    )
    if isinstance(policy, Fixed):
        live = {**_common(body), "kind": "fixed", "llm": policy.llm}
    else:
        live = {**live, "delta": policy.margin, "confidence": policy.confidence}
    return _as_declared(name, live, evidence, kind="equivalent-to", promise=promise)


def _budget(name: str, body: Body_, evidence: Evidence) -> Prepared:
    values = Body(name, body, keys=(*COMMON_KEYS, "per", "error_per_usd", *_BUDGET_KEYS))
    given = [key for key in _BUDGET_KEYS if key in values]
    if len(given) != 1:
        raise values.error(f"give one of {', '.join(_BUDGET_KEYS)}")
    amount = values.number(given[0], above=0.0, most=1e15)
    values.choice("per", ("hour", "day"), default="day")
    if "per" in values and given[0] != "usd":
        raise values.error(f"per belongs to usd: {given[0]} says it all")
    _check_fallbacks(name, body, evidence)
    if "error_per_usd" in values:
        values.number("error_per_usd", least=0.0, most=1e15)
    share = amount if given[0] == "share_of_best" else None
    return Prepared(
        kind="budget",
        policy=Lagrangian(0.0),
        promise=Promise(kind="spend"),
        spending=Spending(usd=None if share is not None else amount, share_of_best=share),
        live=None
        if share is not None
        else {**_common(body), "kind": "budget", "usd": amount, "per": _period(given[0], body)},
    )


def _period(key: str, body: Body_) -> str:
    return "hour" if key == "usd_per_hour" or body.get("per") == "hour" else "day"


def _threshold(name: str, body: Body_, evidence: Evidence) -> Prepared:
    if "strong_share" not in body:
        return _as_declared(name, body, evidence)
    values = Body(name, body, keys=(*COMMON_KEYS, "strong", "weak", "strong_share", "per_usd"))
    share = values.number("strong_share", least=0.0, most=1.0)
    rest = {key: value for key, value in body.items() if key != "strong_share"}
    plain = {key: value for key, value in rest.items() if key != "explore"}
    declared = _as_declared(name, {**plain, "threshold": 0.0}, evidence)
    if not isinstance(declared.policy, Threshold):  # pragma: no cover  # its kind says so
        raise values.error("must be of kind threshold")
    found = calibrate_threshold(declared.policy.gains(evidence.known), share)
    if math.isinf(found):
        only = declared.policy.weak if found > 0 else declared.policy.strong
        return _as_declared(name, {**_common(body), "kind": "fixed", "llm": only}, evidence, kind="threshold")
    return _as_declared(name, {**rest, "threshold": found}, evidence)


def _check_fallbacks(name: str, body: Body_, evidence: Evidence) -> None:
    """Refuse fallbacks that no installation would take; a simulation has no use for them."""
    if "fallbacks" in body:
        _as_declared(
            name, {"kind": "lagrangian", "error_per_usd": 0, "fallbacks": body["fallbacks"]}, evidence
        )


def _confidence(values: Body) -> float:
    return values.number("confidence", least=0.5, most=0.9999) if "confidence" in values else _CONFIDENCE


def _common(body: Body_) -> Body_:
    """Give what a body says beside its kind and that kind's own keys."""
    return {key: value for key, value in body.items() if key in COMMON_KEYS}


_READERS: Mapping[str, Callable[[str, Body_, Evidence], Prepared]] = {
    "quality-floor": _quality_floor,
    "equivalent-to": _equivalent_to,
    "budget": _budget,
    "threshold": _threshold,
    **dict.fromkeys(_PRESETS, _preset),
}
