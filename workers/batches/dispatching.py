"""Decides the next lines of a batch by its plan, and gives what to produce for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.decisions import Decisions, Prompts, decide
from routing.errors import InvalidInputError, NoCandidateError, UnknownLLMError
from routing.policies import UniformSource
from routing.requests import Limits
from workers import messages
from workers.batches.ingest import Lines
from workers.batches.planning import Plan
from workers.batches.purse import Purse, as_amount, reservations
from workers.batches.requests import Wishes, make_prompt
from workers.batches.vectors import Vectors
from workers.batches.ways import Step
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError, WaitableError
from workers.messages import Record
from workers.prompts import Prompt
from workers.router import NamedPolicy, RoutingView, require_policy
from workers.router.budgets import degrade, refuse_spending
from workers.router.handling import limits_at
from workers.router.records import Decided, decision_record, dispatch_record, error_reply, reservation_record
from workers.settings import Settings
from workers.storage.tenants import Tenant
from workers.tenants import Held, Purses, lend_nothing, narrow, permit_policy, require_tenant
from workers.topics import Topics

#: Why a line did not get what the plan prefers.
_SQUEEZED = "batch_budget"
#: See ``_floors``.
_SPARE_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatched:
    """What the next lines of a batch come to."""

    #: Of no lines where money that is under way must come back first.
    step: Step
    records: Sequence[Record]
    #: Of each line; empty where it was refused.
    llms: Sequence[str] = ()
    #: Whether a line waits for its tenant's budget.
    waits_for_tenant: bool = False

    def plus(self, more: "Dispatched") -> "Dispatched":
        """Give both together; ``more`` are the lines behind these."""
        return Dispatched(
            step=self.step.plus(more.step),
            records=[*self.records, *more.records],
            llms=[*self.llms, *more.llms],
            waits_for_tenant=more.waits_for_tenant,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Lines with the decisions on them, and what is to be reserved for each."""

    prompts: Sequence[Prompt]
    limits: Sequence[Limits]
    decisions: Decisions
    #: Shape (n,); 0 where no LLM was chosen.
    amounts: NDArray[np.float64]
    #: Whether there was an LLM for it before money was looked at, shape (n,).
    servable: NDArray[np.bool_]
    squeezed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _By:
    """What lines are decided by."""

    view: RoutingView
    plan: Plan
    named: NamedPolicy
    tenant: Tenant
    now: datetime


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
        purses: Purses | None = None,
    ) -> None:
        self._lines = lines
        self._vectors = vectors
        self._wishes = wishes
        self._signer = signer
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._rng = rng
        self._now = now
        self._purses = purses or Purses(lend_nothing)

    def dispatch(
        self, rows: range, view: RoutingView, plan: Plan, purse: Purse, *, patient: bool = True
    ) -> Dispatched:
        """Decide as many of ``rows`` as can be paid for now, in their order.

        While money is under way, the lines stop before the first that is not paid for by what is left. Once
        none is, a line takes the LLM that the plan prefers among those that are paid for; one that can pay
        for none ends as ``budget_exhausted``. So does a line that its tenant's budget does not cover, once
        nobody is ``patient`` any more; a tenant that is to be degraded gets its cheapest LLM instead. A line
        that names a policy of its own (``model`` ``auto/POLICY``) is decided by that one, and refused where
        its tenant may not use it or it is none in force.

        Raises ``PoisonError`` once the tenant is gone, ``WaitableError`` while the plan's policy is, or while
        it cannot choose.
        """
        tenant = require_tenant(self._wishes.tenant, view.tenants)
        by = _By(
            view=view,
            plan=plan,
            named=name_policy(plan, self._wishes.batch_id, view).exploring(tenant.exploration_share),
            tenant=tenant,
            now=self._now(),
        )
        prompts = [narrow(self._prompt(row), tenant) for row in rows]
        done = Dispatched(step=Step(), records=[])
        for policy, group in groupby(range(len(rows)), key=lambda at: prompts[at].policy):
            alike = list(group)
            some = prompts[alike[0] : alike[-1] + 1]
            try:
                rule = by if policy is None else _by_policy(policy, by)
                found = self._dispatch_alike(
                    rows[alike[0] : alike[-1] + 1], some, rule, purse, patient=patient
                )
            except PoisonError as error:
                if policy is None:  # the plan's own, of an LLM that is away, say: no line is at fault
                    raise WaitableError("the policy", error.sentence) from error
                found = _refuse_all(some, error, by.now)
            done = done.plus(found)
            if found.step.lines < len(some):
                break
            purse = _take_from(purse, found.step)
            patient = patient or found.step.largest_usd > 0
        return done

    def _dispatch_alike(
        self, rows: range, prompts: Sequence[Prompt], by: _By, purse: Purse, *, patient: bool
    ) -> Dispatched:
        """Decide lines by one policy; ``PoisonError`` of class ``unusable_policy`` where it cannot choose."""
        try:
            offer, count = self._offer(rows, prompts, by, purse)
        except (UnknownLLMError, InvalidInputError) as error:  # it names one that has left, say
            raise PoisonError("unusable_policy", f"policy {by.named.name} cannot choose: {error}") from error
        records: list[Record] = []
        llms: list[str] = []
        step, largest, expected, reserved = 0, 0.0, 0.0, Decimal(0)
        waits = False
        for row in range(count):
            if offer.decisions.llms[row] < 0:
                records.append(self._refuse(offer, row, by.now))
                llms.append("")
                step += 1
                continue
            decided = replace(
                self._decided(offer, row, by),
                # What is reserved is for one call of each line.
                may_cascade=purse.budget_usd is None and not by.tenant.has_budget,
            )
            charged = self._charge(decided, float(offer.amounts[row]), by.tenant, patient=patient)
            if charged is None:
                waits = True
                break
            step += 1
            if isinstance(charged, Record):
                records.append(charged)
                llms.append("")
                continue
            llms.append(charged.llm)
            amount = as_amount(float(offer.amounts[row]))
            records += self._records(charged, amount, limited=purse.budget_usd is not None)
            reserved += amount
            largest = max(largest, float(amount))
            expected += float(charged.decisions.predicted_costs[charged.row])
        done = Step(lines=step, reserved_usd=reserved, expected_usd=expected, largest_usd=largest)
        return Dispatched(step=done, records=records, llms=llms, waits_for_tenant=waits)

    def _offer(self, rows: range, prompts: Sequence[Prompt], by: _By, purse: Purse) -> tuple[_Offer, int]:
        """Decide the lines, and give how many of them are paid for."""
        plan = by.plan
        asked = Prompts(
            embeddings=self._vectors.read(slice(rows.start, rows.stop)),
            input_tokens=np.array([prompt.input_tokens for prompt in prompts], dtype=np.float64),
            limits=[limits_at(prompt, by.now) for prompt in prompts],
        )
        offer = self._decide(asked, prompts, by)
        if purse.budget_usd is None:
            return offer, len(prompts)
        keep = _floors(plan, len(self._lines) - 1 - np.arange(rows.start, rows.stop), purse)
        count = purse.count_paid(offer.amounts, keep_usd=keep)
        if count or purse.lines_under_way:
            return offer, count
        narrowed = replace(asked, limits=_squeeze(offer, asked, plan, purse, keep[0]))
        squeezed = replace(self._decide(narrowed, prompts, by), servable=offer.servable, squeezed=True)
        count = purse.count_paid(squeezed.amounts, keep_usd=keep)
        return squeezed, count or purse.count_paid(squeezed.amounts[:1], keep_usd=np.zeros(1))

    def _decide(self, asked: Prompts, prompts: Sequence[Prompt], by: _By) -> _Offer:
        decisions = decide(asked, by.view.snapshot, by.named.declaration.policy, rng=self._rng)
        wanted = reservations(decisions.costs, decisions.ceilings, correction=by.plan.correction)
        picked = np.maximum(decisions.llms, 0)[:, None]
        amounts = np.take_along_axis(wanted, picked, axis=1)[:, 0]
        for name in by.named.declaration.fallbacks:
            if name in decisions.names:
                column = decisions.names.index(name)
                amounts = np.maximum(
                    amounts, np.where(decisions.allowed.mask[:, column], wanted[:, column], 0)
                )
        return _Offer(
            prompts=prompts,
            limits=asked.limits or [],
            decisions=decisions,
            amounts=np.where(decisions.llms >= 0, amounts, 0.0),
            servable=np.any(decisions.allowed.mask, axis=1),
        )

    def _decided(self, offer: _Offer, row: int, by: _By) -> Decided:
        return Decided(
            prompt=replace(offer.prompts[row], tenant=by.tenant.name),
            limits=offer.limits[row],
            decisions=offer.decisions,
            row=row,
            named=by.named,
            snapshot=by.view.snapshot,
            token=self._sign(offer.prompts[row], offer.decisions, row, by.now),
            now=by.now,
            priority=by.tenant.priority,
            degraded=_SQUEEZED if offer.squeezed else "",
        )

    def _charge(
        self, decided: Decided, amount: float, tenant: Tenant, *, patient: bool
    ) -> Decided | Record | None:
        """Reserve of the tenant's budget; an error reply, or ``None``, where it has not so much left."""
        if not tenant.has_budget:
            return decided
        held = self._purses.reserve(tenant.name, amount, day=decided.now.date())
        if isinstance(held, Held):
            return replace(decided, held=held)
        if patient or held.reason == "unknown":
            return None
        prompt = decided.prompt
        if tenant.at_limit == "degrade":
            cheapest = degrade(decided)
            return replace(cheapest, token=self._sign(prompt, cheapest.decisions, cheapest.row, decided.now))
        error = refuse_spending(tenant, amount, held)
        return error_reply(
            prompt.message, prompt.reply_to, error.error_class, error.sentence, now=decided.now
        )

    def _prompt(self, row: int) -> Prompt:
        body = self._lines.body(row)
        return make_prompt(body, self._lines.number(row), self._wishes, self._settings)

    def _records(self, decided: Decided, amount: Decimal, *, limited: bool) -> list[Record]:
        dispatch = dispatch_record(decided, self._topics)
        reservation = reservation_record(decided, self._topics)
        told = {messages.LANE: b"batch", messages.RESERVED_USD: f"{amount:f}".encode()}
        if limited:
            # No call is begun again beyond what is reserved.
            told[messages.MAX_COST_USD] = f"{amount:f}".encode()
        headers = (*(pair for pair in dispatch.headers if pair[0] not in told), *told.items())
        return [
            replace(dispatch, headers=headers),
            decision_record(decided, self._topics),
            *(() if reservation is None else (reservation,)),
        ]

    def _refuse(self, offer: _Offer, row: int, now: datetime) -> Record:
        """Answer a line that has no LLM: its limits leave none, or the budget pays for none of them."""
        prompt = offer.prompts[row]
        if offer.squeezed and offer.servable[row]:
            error, sentence = "budget_exhausted", "the batch's budget pays for no LLM that this line may take"
        else:
            error, sentence = "no_candidate", str(NoCandidateError(offer.decisions.removed(row)))
        return error_reply(prompt.message, prompt.reply_to, error, sentence, now=now)

    def _sign(self, prompt: Prompt, decisions: Decisions, row: int, now: datetime) -> str:
        return self._signer.sign(
            DecisionFacts(
                prompt_id=prompt.prompt_id,
                llm=decisions.require_llm(row),
                map_version=decisions.map_version,
                cells=tuple(decisions.cells[row].tolist()),
                shares=decisions.shares(row),
                propensity=float(decisions.propensities[row]),
                decided_at=int(now.timestamp()),
            )
        )


def name_policy(plan: Plan, batch_id: str, view: RoutingView) -> NamedPolicy:
    """Give what decides the lines: the named policy, else the plan's lambda under the batch's name.

    ``WaitableError`` while the policy that the lines were planned by is not in force.
    """
    if plan.policy is not None:
        if plan.policy not in view.policies:
            raise WaitableError(
                f"policy {plan.policy}",
                view.unusable.get(plan.policy, "the batch was planned by it: apply it again, or cancel"),
            )
        return view.policies[plan.policy]
    body: dict[str, Any] = {"kind": "lagrangian", "error_per_usd": plan.error_per_usd or 0.0}
    if plan.surcharges:
        body["surcharges"] = plan.surcharges
    return NamedPolicy.build(f"batch/{batch_id}", plan.number, body)


def _by_policy(name: str, by: _By) -> _By:
    """Decide by the policy that a line names; ``PoisonError`` as a live prompt gets it.

    And for one that spends a budget of its own, as for a whole batch.
    """
    permit_policy(name, by.tenant)
    named = require_policy(name, by.view)
    if named.declaration.budget is not None:
        raise PoisonError(
            "unusable_policy", f"policy {name} spends a budget of its own, which a batch does not draw on"
        )
    return replace(by, named=named.exploring(by.tenant.exploration_share))


def _refuse_all(prompts: Sequence[Prompt], error: PoisonError, now: datetime) -> Dispatched:
    records = [
        error_reply(prompt.message, prompt.reply_to, error.error_class, error.sentence, now=now)
        for prompt in prompts
    ]
    return Dispatched(step=Step(lines=len(records)), records=records, llms=[""] * len(records))


def _take_from(purse: Purse, step: Step) -> Purse:
    """Give the purse with some more lines under way; those that were refused among them, as nobody knows."""
    return replace(
        purse,
        reserved_usd=purse.reserved_usd + step.reserved_usd,
        lines_under_way=purse.lines_under_way + step.lines,
        expected_under_way_usd=purse.expected_under_way_usd + step.expected_usd,
        largest_usd=max(purse.largest_usd, step.largest_usd),
    )


def _floors(plan: Plan, after: NDArray[np.int64], purse: Purse) -> NDArray[np.float64]:
    """Give what the cheapest service of so many lines to come costs, which is kept so that none goes without.

    A few lines more are kept for, because each needs more to be reserved than it costs in the end. Where not
    even that is left, the lines are served in their order as far as the money goes.
    """
    each = plan.floor_usd / max(1, plan.lines - plan.unservable)
    floors: NDArray[np.float64] = each * np.where(after > 0, after + _SPARE_LINES, 0)
    if purse.left_usd is not None and len(floors) and floors[0] >= float(purse.left_usd):
        return np.zeros(len(floors))
    return floors


def _squeeze(offer: _Offer, asked: Prompts, plan: Plan, purse: Purse, keep: float) -> list[Limits]:
    """Give the limits with the LLMs that are paid for, line by line.

    The cheapest service of the lines to come is kept, but for a line that could then not be served itself.
    """
    decisions = offer.decisions
    wanted = reservations(decisions.costs, decisions.ceilings, correction=plan.correction)
    paid = (wanted <= purse.most_usd(keep_usd=keep)) & decisions.allowed.mask
    alone = (wanted <= purse.most_usd()) & decisions.allowed.mask
    paid = np.where(paid.any(axis=1, keepdims=True), paid, alone)
    return [
        limits.tightened(
            Limits(candidates=frozenset(name for name, one in zip(decisions.names, row, strict=True) if one))
        )
        for limits, row in zip(asked.limits or [], paid.tolist(), strict=True)
    ]
