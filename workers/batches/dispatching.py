"""Decides the next lines of a batch by its plan, and gives what to produce for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from routing.decisions import Decisions, Prompts, decide
from routing.errors import NoCandidateError
from routing.policies import Ceiling, UniformSource
from workers import messages
from workers.batches.ingest import Lines
from workers.batches.planning import Plan
from workers.batches.purse import RESERVE_FACTOR, Purse, reservation
from workers.batches.requests import Wishes, make_prompt
from workers.batches.vectors import Vectors
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.messages import Pace, Record
from workers.policies import read_policy
from workers.prompts import Prompt
from workers.router import NamedPolicy, RoutingView
from workers.router.handling import limits_at
from workers.router.records import Decided, decision_record, dispatch_record, error_reply
from workers.settings import Settings
from workers.storage.tenants import DEFAULT_TENANT, Tenant, find_tenant
from workers.tenants.admission import narrow
from workers.topics import Topics

#: Why a line did not get what the plan prefers.
_SQUEEZED = "batch_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """What the next lines of a batch come to."""

    #: Lines, from the next one on; 0 where money that is under way must come back first.
    lines: int
    records: Sequence[Record]
    #: USD reserved for them.
    reserved_usd: Decimal


class Dispatcher:
    """Makes dispatches and decision records of lines, and error replies of those that nothing can take."""

    def __init__(
        self,
        *,
        lines: Lines,
        vectors: Vectors,
        wishes: Wishes,
        signer: DecisionSigner,
        settings: Settings,
        rng: UniformSource,
        now: Callable[[], datetime],
    ) -> None:
        self._lines = lines
        self._vectors = vectors
        self._wishes = wishes
        self._signer = signer
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._rng = rng
        self._now = now

    def dispatch(self, rows: range, view: RoutingView, plan: Plan, purse: Purse) -> Dispatched:
        """Decide as many of ``rows`` as can be paid for now, in their order.

        While money is under way, the lines stop before the first that is not paid for by what is left. Once
        none is, a line takes the LLM that the plan prefers among those that are paid for; one that can pay
        for none ends as ``budget_exhausted``.
        """
        named = name_policy(plan, self._wishes.batch_id, view)
        now = self._now()
        tenant = find_tenant(self._wishes.tenant, view.tenants) or Tenant(
            name=self._wishes.tenant or DEFAULT_TENANT
        )
        prompts = [narrow(self._prompt(row), tenant) for row in rows]
        block = slice(rows.start, rows.stop)
        asked = Prompts(
            embeddings=self._vectors.read(block),
            input_tokens=np.array([prompt.input_tokens for prompt in prompts], dtype=np.float64),
            limits=[limits_at(prompt, now) for prompt in prompts],
        )
        policy = named.declaration.policy
        decisions = decide(asked, view.snapshot, policy, rng=self._rng)
        left = purse.left_usd
        count, paces = len(prompts), None
        if left is not None:
            affordable = _less_floor(float(left) / RESERVE_FACTOR, plan, len(self._lines) - rows.stop)
            count = _count_paid(decisions, affordable)
            if count == 0 and purse.under_way_usd == 0:
                ceiling = Ceiling(policy=policy, remaining_usd=affordable)
                decisions = decide(asked, view.snapshot, ceiling, rng=self._rng)
                count = _count_settled(decisions)
                paces = _pace(decisions, plan, affordable)
                named = _name_squeezed(named, plan, affordable)
        records, reserved = [], Decimal(0)
        for row in range(count):
            if decisions.llms[row] < 0:
                records.append(self._refuse(prompts[row], decisions, row, now))
                continue
            amount = reservation(float(decisions.predicted_costs[row]))
            reserved += amount
            decided = Decided(
                prompt=prompts[row],
                limits=(asked.limits or [])[row],
                decisions=decisions,
                row=row,
                named=named,
                snapshot=view.snapshot,
                token=self._sign(prompts[row], decisions, row, now),
                now=now,
                priority=tenant.priority,
                pace=None if paces is None else paces[row],
                degraded="" if paces is None else _SQUEEZED,
                may_cascade=left is None,  # a budget is for one call of each line
            )
            records += self._records(decided, amount)
        return Dispatched(lines=count, records=records, reserved_usd=reserved)

    def _prompt(self, row: int) -> Prompt:
        _, body = self._lines.read(row)
        return make_prompt(body, self._lines.number(row), self._wishes, self._settings)

    def _records(self, decided: Decided, amount: Decimal) -> list[Record]:
        dispatch = dispatch_record(decided, self._topics)
        headers = (
            *(pair for pair in dispatch.headers if pair[0] not in {messages.LANE, messages.RESERVED_USD}),
            (messages.LANE, b"batch"),
            (messages.RESERVED_USD, f"{amount:f}".encode()),
        )
        return [replace(dispatch, headers=headers), decision_record(decided, self._topics)]

    def _refuse(self, prompt: Prompt, decisions: Decisions, row: int, now: datetime) -> Record:
        """Answer a line that has no LLM: its limits leave none, or the budget pays for none of them."""
        if decisions.allowed.mask[row].any():
            error, sentence = "budget_exhausted", "the batch's budget pays for no LLM that this line may take"
        else:
            error, sentence = "no_candidate", str(NoCandidateError(decisions.removed(row)))
        return error_reply(prompt.message, prompt.reply_to, error, sentence, now=now)

    def _sign(self, prompt: Prompt, decisions: Decisions, row: int, now: datetime) -> str:
        return self._signer.sign(
            DecisionFacts(
                prompt_id=prompt.prompt_id,
                llm=decisions.require_llm(row),
                map_version=decisions.map_version,
                cells=tuple(decisions.cells[row].tolist()),
                propensity=float(decisions.propensities[row]),
                decided_at=int(now.timestamp()),
            )
        )


def name_policy(plan: Plan, batch_id: str, view: RoutingView) -> NamedPolicy:
    """Give what decides the lines: the named policy, else the plan's lambda under the batch's name."""
    if plan.policy is not None and plan.policy in view.policies:
        return view.policies[plan.policy]
    body = {"kind": "lagrangian", "error_per_usd": plan.error_per_usd or 0.0}
    return NamedPolicy.build(f"batch/{batch_id}", plan.number, body)


def _name_squeezed(named: NamedPolicy, plan: Plan, affordable: float) -> NamedPolicy:
    """Give the policy of lines that the budget squeezed: a budget, whose pace is told with each decision."""
    if plan.error_per_usd is None or affordable <= 0:
        return named
    body = {"kind": "budget", "usd": affordable, "error_per_usd": plan.error_per_usd}
    return NamedPolicy(
        name=named.name, version=named.version, body=body, declaration=read_policy(named.name, body)
    )


def _less_floor(affordable: float, plan: Plan, lines_after: int) -> float:
    """Keep what the cheapest service of the lines to come costs, so that none of them ends without money.

    Where not even that is left, the lines are served in their order as far as the money goes.
    """
    floor = plan.floor_usd / max(1, plan.lines - plan.unservable) * lines_after
    return affordable if floor >= affordable else affordable - floor


def _count_paid(decisions: Decisions, affordable: float) -> int:
    """Give how many lines, from the first, are paid for by ``affordable`` USD of expected cost together."""
    costs = np.where(decisions.llms >= 0, np.nan_to_num(decisions.predicted_costs), 0.0)
    return int(np.searchsorted(np.cumsum(costs), affordable, side="right"))


def _count_settled(decisions: Decisions) -> int:
    """Give how many lines come before the first that others of this block left without money."""
    taken: NDArray[np.bool_] = np.logical_or.accumulate(decisions.llms >= 0)
    starved = taken & (decisions.llms < 0) & decisions.allowed.mask.any(axis=1)
    return int(np.argmax(starved)) if starved.any() else len(decisions)


def _pace(decisions: Decisions, plan: Plan, affordable: float) -> list[Pace]:
    costs = np.where(decisions.llms >= 0, np.nan_to_num(decisions.predicted_costs), 0.0)
    before = np.concatenate([[0.0], np.cumsum(costs)[:-1]])
    return [
        Pace(error_per_usd=plan.error_per_usd or 0.0, remaining_usd=affordable, spent_usd=float(spent))
        for spent in before
    ]
