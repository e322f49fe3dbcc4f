"""From a policy's declaration, as Postgres and files keep it, to the policy that chooses."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from routing.errors import InvalidInputError
from routing.policies import (
    PRESET_WEIGHTS,
    Ceiling,
    EquivalentTo,
    Fixed,
    Lagrangian,
    Policy,
    Preset,
    QualityFloor,
    Threshold,
    Weighted,
    preset_policy,
)
from routing.policies.cascade import CascadeStart
from workers.messages import ON_FAILURES
from workers.policies.bodies import Body
from workers.policies.cascading import CASCADE_KEYS, Cascading, read_cascade
from workers.policies.exploring import Exploring, read_exploration

#: Seconds of each period that a budget may be for.
PERIODS: Mapping[str, float] = {"hour": 3_600.0, "day": 86_400.0}
#: What a margin may be kept over, each prompt or their average, and what is said where that is not known yet.
_OVER = ("prompt", "traffic")
_UNCALIBRATED = (
    "over: traffic is a promise of an average, which needs graded prompts: `uniroute policy simulate FILE "
    "--outcomes DIR --live OUT` calibrates it and writes OUT, the file to apply"
)
#: How sure the upper bound of an error is, unless the policy says otherwise.
_CONFIDENCE = 0.95
#: More than any LLM is worth; finite, so that JSON and Postgres can hold it.
_GREATEST = 1e15
#: A year.
_LONGEST_KEPT_S = 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """USD that may be spent in each period, paced by a lambda that follows the spending."""

    usd: float
    period_s: float
    #: Lambda before anything was spent; ``None``: whoever paces chooses it.
    error_per_usd: float | None = None
    exploring: Exploring | None = None

    def at(self, error_per_usd: float) -> Policy:
        """Give the policy at a lambda; it knows no ceiling."""
        policy: Policy = Lagrangian(error_per_usd)
        return policy if self.exploring is None else self.exploring.around(policy)

    def in_force(
        self,
        *,
        error_per_usd: float,
        remaining_usd: float,
        spent_usd: float = 0.0,
        by_ceiling: bool = False,
        fallbacks: tuple[str, ...] = (),
    ) -> Ceiling:
        """Give the policy of one decision: the lambda of the moment, under what is left of the period."""
        return Ceiling(
            policy=self.at(error_per_usd),
            remaining_usd=remaining_usd,
            spent_usd=spent_usd,
            by_ceiling=by_ceiling,
            fallbacks=fallbacks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A policy that was declared, checked and built."""

    kind: str
    #: Of a budget: the Lagrangian that it starts with, which knows no ceiling.
    policy: Policy
    #: Stand in for the chosen LLM, in this order, where a call to it fails.
    fallbacks: tuple[str, ...] = ()
    #: The LLMs that it cannot do without: all it names, but for the fallbacks.
    llms: frozenset[str] = frozenset()
    #: Where the policy spends a budget.
    budget: Budget | None = None
    #: Where an LLM that is not sure of its answer is followed by another.
    cascade: Cascading | None = None
    #: Seconds for which an answer may be given again to equal prompts of the same tenant; 0 for never.
    cache_seconds: float = 0.0
    #: What becomes of a prompt that no LLM answers: one of ``ON_FAILURES``.
    on_failure: str = ON_FAILURES[0]


def build_policy(name: str, body: Mapping[str, Any]) -> Policy:
    """Build the policy that ``body`` declares: ``{"kind": "lagrangian", "error_per_usd": 40.0}``.

    Raises ``InvalidInputError`` naming the policy and the key that is unknown, missing or out of range. A
    budget's policy is the one it starts with; ``read_policy`` gives what paces it.
    """
    return read_policy(name, body).policy


def read_policy(name: str, body: Mapping[str, Any]) -> Declaration:
    """Give all that ``body`` declares; raises as ``build_policy`` does."""
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        given = "missing" if kind is None else repr(kind)[:60]
        raise InvalidInputError(f"policy {name}", f"kind is {given}: known are {', '.join(sorted(_KINDS))}")
    keys, read = _KINDS[kind]
    values = Body(name, body, keys=(*COMMON_KEYS, *keys))
    return replace(
        _explore(read(values, kind, values.llms("fallbacks")), values),
        cache_seconds=values.number("cache_seconds", least=0.0, most=_LONGEST_KEPT_S)
        if "cache_seconds" in values
        else 0.0,
        on_failure=values.choice("on_failure", ON_FAILURES, default=ON_FAILURES[0]),
    )


def _explore(declared: Declaration, values: Body) -> Declaration:
    """Let a policy look beyond itself, where its body says so."""
    exploring = read_exploration(values)
    if exploring is None:
        return declared
    if declared.cascade is not None:
        raise values.error("explore does not go with a cascade, which asks several LLMs anyway")
    return replace(
        declared,
        policy=exploring.around(declared.policy),
        budget=None if declared.budget is None else replace(declared.budget, exploring=exploring),
    )


def check_llms(name: str, declaration: Declaration, known: Collection[str]) -> None:
    """Refuse a policy that names an LLM which is not among ``known``, by ``InvalidInputError``."""
    if missing := sorted({*declaration.llms, *declaration.fallbacks} - set(known)):
        listed = ", ".join(sorted(known)) or "none"
        raise InvalidInputError(f"policy {name}", f"no LLM is named {missing[0]!r}; registered: {listed}")


def _lagrangian(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    anchored = "error_per_reference" in body
    if anchored == ("error_per_usd" in body):
        raise body.error("give error_per_usd, or error_per_reference with reference_cost_usd, and not both")
    if anchored:
        weight = body.number("error_per_reference", least=0.0, most=_GREATEST)
        error_per_usd = weight / body.number("reference_cost_usd", least=1e-12, most=_GREATEST)
    elif "reference_cost_usd" in body:
        raise body.error("reference_cost_usd belongs to error_per_reference: error_per_usd needs none")
    else:
        error_per_usd = body.number("error_per_usd", least=0.0, most=_GREATEST)
    surcharges = body.shares("surcharges") if "surcharges" in body else {}
    policy = Lagrangian(error_per_usd, tuple(sorted(surcharges.items())))
    return Declaration(kind=kind, policy=policy, fallbacks=fallbacks)


def _quality_floor(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    calibrated = _calibrated_lambda(body)
    on_upper = body.choice("on", ("mean", "upper"), default="mean") == "upper"
    if "confidence" in body and not on_upper:
        raise body.error("confidence belongs to `on: upper`: the mean has none")
    key = _one_of(body, ("tolerance", "d"))
    floor = QualityFloor(
        margin=body.number(key, least=0.0, most=1.0),
        confidence=_confidence(body) if on_upper else 0.5,
    )
    policy = floor if calibrated is None else Lagrangian(calibrated)
    return Declaration(kind=kind, policy=policy, fallbacks=fallbacks)


def _equivalent_to(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    reference = body.llm("reference")
    _check_over(body)
    policy = EquivalentTo(
        reference=reference, margin=body.number("delta", least=0.0, most=1.0), confidence=_confidence(body)
    )
    return Declaration(kind=kind, policy=policy, fallbacks=fallbacks, llms=frozenset({reference}))


def _budget(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    start = body.number("error_per_usd", least=0.0, most=_GREATEST) if "error_per_usd" in body else None
    key = _one_of(body, ("usd", "usd_per_hour", "usd_per_day"))
    if key != "usd" and "per" in body:
        raise body.error(f"per belongs to usd: {key} says it all")
    period = (
        body.choice("per", tuple(PERIODS), default="day") if key == "usd" else key.removeprefix("usd_per_")
    )
    budget = Budget(
        usd=body.number(key, above=0.0, most=_GREATEST), period_s=PERIODS[period], error_per_usd=start
    )
    return Declaration(kind=kind, policy=Lagrangian(start or 0.0), fallbacks=fallbacks, budget=budget)


def _threshold(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    strong, weak = body.llm("strong"), body.llm("weak")
    if strong == weak:
        raise body.error(f"strong and weak are both {strong!r}: give two LLMs")
    policy = Threshold(
        strong=strong,
        weak=weak,
        threshold=body.number("threshold", least=-_GREATEST, most=_GREATEST),
        per_usd=body.flag("per_usd", default=False),
    )
    return Declaration(kind=kind, policy=policy, fallbacks=fallbacks, llms=frozenset({strong, weak}))


def _fixed(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    llm = body.llm("llm")
    return Declaration(kind=kind, policy=Fixed(llm), fallbacks=fallbacks, llms=frozenset({llm}))


def _weighted(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    weights = body.shares("weights")
    return Declaration(kind=kind, policy=Weighted(weights), fallbacks=fallbacks, llms=frozenset(weights))


def _cascade(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    cascade = read_cascade(body)
    policy = CascadeStart(llms=cascade.llms, error_per_usd=cascade.spec.error_per_usd)
    return Declaration(
        kind=kind, policy=policy, fallbacks=fallbacks, llms=frozenset(cascade.llms), cascade=cascade
    )


def _preset(body: Body, kind: str, fallbacks: tuple[str, ...]) -> Declaration:
    reference = body.number("reference_cost_usd", least=1e-12, most=_GREATEST)
    policy = preset_policy(cast(Preset, kind), reference_cost_usd=reference)
    return Declaration(kind=kind, policy=policy, fallbacks=fallbacks)


def _one_of(body: Body, keys: tuple[str, ...]) -> str:
    """Give the one of these keys that is there."""
    given = [key for key in keys if key in body]
    if len(given) != 1:
        raise body.error(f"give {keys[0]} (or, in its place, {' or '.join(keys[1:])})")
    return given[0]


def _calibrated_lambda(body: Body) -> float | None:
    """Give the lambda that keeps a floor over the traffic; ``None`` where each prompt has its own floor."""
    over_traffic = body.choice("over", _OVER, default="prompt") == "traffic"
    if over_traffic and "error_per_usd" not in body:
        raise body.error(_UNCALIBRATED)
    if not over_traffic and "error_per_usd" in body:
        raise body.error("error_per_usd belongs to `over: traffic`: the floor of each prompt needs none")
    return body.number("error_per_usd", least=0.0, most=_GREATEST) if over_traffic else None


def _check_over(body: Body) -> None:
    if body.choice("over", _OVER, default="prompt") == "traffic":
        raise body.error(_UNCALIBRATED)


def _confidence(body: Body) -> float:
    return body.number("confidence", least=0.5, most=0.9999) if "confidence" in body else _CONFIDENCE


#: What the body of any kind may say.
COMMON_KEYS = ("kind", "fallbacks", "explore", "cache_seconds", "on_failure")
_Reader = Callable[[Body, str, tuple[str, ...]], Declaration]
#: Of each kind, the keys it knows beside the common ones, and what reads them.
_KINDS: Mapping[str, tuple[tuple[str, ...], _Reader]] = {
    "lagrangian": (
        ("error_per_usd", "error_per_reference", "reference_cost_usd", "surcharges"),
        _lagrangian,
    ),
    "quality-floor": (("tolerance", "d", "on", "confidence", "over", "error_per_usd"), _quality_floor),
    "equivalent-to": (("reference", "delta", "confidence", "over"), _equivalent_to),
    "budget": (("usd", "per", "usd_per_hour", "usd_per_day", "error_per_usd"), _budget),
    "threshold": (("strong", "weak", "threshold", "per_usd"), _threshold),
    "fixed": (("llm",), _fixed),
    "weighted": (("weights",), _weighted),
    "cascade": (CASCADE_KEYS, _cascade),
    **dict.fromkeys(PRESET_WEIGHTS, (("reference_cost_usd",), _preset)),
}
