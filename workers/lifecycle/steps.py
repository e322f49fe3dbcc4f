"""The steps between an LLM's states: each on its condition, or against it where somebody insists."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from routing.errors import UnknownLLMError
from workers.errors import UsageError
from workers.learner import refit
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.llm_journal import LLMJournal, Standing
from workers.storage.llms import LLMs, RegisteredLLM, State
from workers.storage.sources import Sources
from workers.storage.tables import FeedbackRow

_ON: Mapping[State, State] = MappingProxyType({"probe": "shadow", "shadow": "canary", "canary": "active"})
_BACK: Mapping[State, State] = MappingProxyType({"shadow": "probe", "canary": "shadow", "active": "canary"})
#: States in which an LLM gets traffic.
_ROUTED = frozenset({"canary", "active"})
#: Standard deviations of a mean that it hardly exceeds: 95 %, on one side.
_NORMAL_95 = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What an LLM must show before each step on."""

    #: Labels before it is a shadow.
    labels: int = 20
    #: Of the prompts that it was probed on, the least share that it would win, before it is a canary.
    share: float = 0.01
    #: Pieces of live feedback before it is active; what they say must not be worse than was predicted.
    feedback: int = 30
    #: Of prompts that it is offered to as a canary.
    canary_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Why a step may not be taken, empty if it may; and the figures."""

    problem: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def promote(
    engine: Engine, name: str, *, conditions: Conditions | None = None, reason: str = "", force: bool = False
) -> State:
    """Take an LLM one step on: probe, shadow, canary, active; from draining to what it was. Give its state.

    To a shadow it takes labels; to a canary, that its probes settled the routes and that it would win some,
    or, of one that joined with labels and had traffic before, as many of them as a shadow needs; to active,
    live feedback that is no worse than was predicted of it, beyond chance. With ``force`` the step
    is taken all the same, and the journal says so. Raises ``UsageError`` for what is missing.
    """
    conditions = conditions or Conditions()
    with transaction(engine) as session:
        found = _read(session, name)
        if found.state not in {*_ON, "draining"}:
            raise UsageError(f"{name} is {found.state}: there is no step on from there")
        if found.state == "draining":
            return _return(session, name, reason)
        shown = _show(session, found, conditions)
        if shown.problem and not force:
            raise UsageError(f"{name} stays {found.state}: {shown.problem}")
        to = _ON[found.state]
        before = LLMJournal(session).standings().get(name, Standing())
        LLMs(session).set_state(
            name,
            to,
            standing=Standing(
                canary_share=conditions.canary_share if to == "canary" else 0.0,
                cautious=before.cautious and to != "active",
            ),
            reason=_say(reason, shown.problem),
            evidence={**shown.evidence, "asked": asdict(conditions)},
        )
    refit(engine, reason=f"{name} is {to}", wait=True)
    return to


def demote(engine: Engine, name: str, *, conditions: Conditions | None = None, reason: str = "") -> State:
    """Take an LLM one step back, from active to canary, shadow, probe; give its state. Labels stay.

    Raises ``UsageError`` where there is no step back.
    """
    conditions = conditions or Conditions()
    with transaction(engine) as session:
        found = _read(session, name)
        if found.state not in _BACK:
            raise UsageError(f"{name} is {found.state}: there is no step back from there")
        to = _BACK[found.state]
        before = LLMJournal(session).standings().get(name, Standing())
        LLMs(session).set_state(
            name,
            to,
            standing=Standing(
                canary_share=conditions.canary_share if to == "canary" else 0.0,
                cautious=before.cautious or to == "probe",
            ),
            reason=reason,
        )
    refit(engine, reason=f"{name} is {to}", wait=True)
    return to


def _return(session: Session, name: str, reason: str) -> State:
    """Take a drained LLM back to the state that it was drained from, as it stood there."""
    *earlier, last = LLMJournal(session).steps(name)
    state = cast(State, last.from_state)
    standing = earlier[-1].standing if earlier else Standing()  # it was there before there was a journal
    LLMs(session).set_state(name, state, standing=standing, reason=reason)
    return state


def _read(session: Session, name: str) -> RegisteredLLM:
    found = LLMs(session).get(name)
    if found is None:
        raise UnknownLLMError(name, LLMs(session).names())
    return found


def _say(reason: str, problem: str) -> str:
    forced = f"forced, though {problem}" if problem else ""
    return ": ".join(filter(None, (reason, forced)))


def _show(session: Session, found: RegisteredLLM, conditions: Conditions) -> _Shown:
    """Say what an LLM has shown of what its next step takes."""
    if found.state == "probe":
        return _show_labels(session, found.llm.name, conditions)
    if found.state == "shadow":
        return _show_probes(session, found.llm.name, conditions)
    if found.state == "canary":
        return _show_feedback(session, found, conditions)
    return _Shown()


def _show_labels(session: Session, name: str, conditions: Conditions) -> _Shown:
    fitted = ClusterMaps(session).active()
    labels = 0
    if fitted is not None:
        sizes, version = fitted.cluster_map.sizes, fitted.cluster_map.version
        counts = CellCounts(session).read(version, [name], n_cells=sum(sizes), evidence=("label",))
        labels = round(float(counts.labels[: sizes[0]].sum()))
    problem = f"it has {labels} labels of {conditions.labels}: `uniroute llm onboard {name}`"
    return _Shown(problem=problem if labels < conditions.labels else "", evidence={"labels": labels})


def _show_probes(session: Session, name: str, conditions: Conditions) -> _Shown:
    journal = LLMJournal(session)
    probed = next((step for step in reversed(journal.steps(name)) if "share" in step.evidence), None)
    if probed is None:
        if not any(step.to_state in _ROUTED for step in journal.steps(name)):
            return _Shown(problem=f"it was not probed: `uniroute llm demote {name}` leads back to probe")
        return _show_labels(session, name, conditions)  # it joined with labels, and comes back on them
    share, evidence = float(probed.evidence["share"]), dict(probed.evidence)
    if journal.standings().get(name, Standing()).cautious:
        return _Shown(problem="its labels ran out before the routes were settled", evidence=evidence)
    if share < conditions.share:
        return _Shown(
            problem=f"of the prompts it was probed on it would win {share:.1%}, less than "
            f"{conditions.share:.1%}",
            evidence=evidence,
        )
    return _Shown(evidence=evidence)


def _show_feedback(session: Session, found: RegisteredLLM, conditions: Conditions) -> _Shown:
    """Hold the live feedback since the LLM became a canary against what its labels predicted.

    What sources say that are flagged is left out, whether it speaks for the LLM or against it.
    """
    name = found.llm.name
    steps = [step for step in LLMJournal(session).steps(name) if step.to_state == "canary"]
    since = max((step.at for step in steps if step.at), default=found.registered_at)
    fitted = ClusterMaps(session).active()
    if fitted is None:
        return _Shown(problem="no cluster map is in force")
    version, n_cells = fitted.cluster_map.version, sum(fitted.cluster_map.sizes)
    labels = CellCounts(session).read(version, [name], n_cells=n_cells, evidence=("label",))
    column = fitted.prior.error_rates(labels.errors, labels.labels)[:, 0]
    flagged = [source for source, one in Sources(session).list().items() if one.flagged]
    rows = session.execute(
        select(FeedbackRow.cells, FeedbackRow.shares, FeedbackRow.score).where(
            FeedbackRow.llm == name,
            FeedbackRow.map_version == version,
            FeedbackRow.disposition == "counted",
            FeedbackRow.source.not_in(flagged),
            FeedbackRow.received_at >= since,
        )
    ).all()
    errors = np.array([1.0 - score for _, _, score in rows])
    predicted = np.array([np.average(column[cells], weights=shares or None) for cells, shares, _ in rows])
    if len(rows) < max(2, conditions.feedback):
        return _Shown(
            problem=f"it has {len(rows)} pieces of live feedback of {conditions.feedback}",
            evidence={"feedback": len(rows)},
        )
    excess = errors - predicted
    mean, error = float(excess.mean()), float(excess.std(ddof=1)) / len(rows) ** 0.5
    evidence = {
        "feedback": len(rows),
        "live_error": float(errors.mean()),
        "predicted_error": float(predicted.mean()),
    }
    worse = mean - _NORMAL_95 * error > 0
    return _Shown(
        problem=f"live it errs {mean:.3f} more than was predicted, beyond chance" if worse else "",
        evidence=evidence,
    )
