"""What a decision becomes on Kafka: the dispatch, the decision's record, or an error reply."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from routing.decisions import Decisions
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers import messages
from workers.messages import CandidateRecord, DecisionRecord, Message, Pace, Record
from workers.prompts import Prompt
from workers.router.pacing import Reserved
from workers.router.serving import Serving, read_serving, scoring_ceilings, serving_headers
from workers.router.views import NamedPolicy
from workers.tenants import Held
from workers.topics import DEFAULT_LANE, Topics

_SOURCE = "/router"
#: What travels on from a prompt to its dispatch.
_CARRIED = (
    messages.REPLY_TO,
    messages.DEADLINE,
    messages.TENANT,
    messages.TRACEPARENT,
    messages.LANE,
    messages.MAX_COST_USD,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One prompt with the decision that was made for it."""

    prompt: Prompt
    #: What held for it: the caller's limits and whatever else narrowed them.
    limits: Limits
    decisions: Decisions
    #: Its row in ``decisions``.
    row: int
    named: NamedPolicy
    snapshot: Snapshot
    #: The decision's id.
    token: str
    now: datetime
    #: What a policy that spends a budget knew.
    pace: Pace | None = None
    #: What that policy's budget holds for it.
    reserved: Reserved | None = None
    #: What was reserved of its tenant's budget, where it has one.
    held: Held | None = None
    #: Weight of its tenant.
    priority: float = 1.0
    #: Why it is not what the policy would have chosen; empty where it is.
    degraded: str = ""
    #: Whether more than one LLM may be paid for it.
    may_cascade: bool = True

    @property
    def llm(self) -> str:
        """The LLM that was chosen."""
        return self.decisions.require_llm(self.row)

    @property
    def serving(self) -> Serving:
        """How it is to be served; ``PoisonError`` (``bad_header``) for a prompt that was not checked."""
        return read_serving(self.prompt.message, self.named.declaration)

    @property
    def asked_next(self) -> tuple[str, ...]:
        """Whom a cascade may ask when an answer is not sure enough, within the caller's limits, in order."""
        if not self.may_cascade or self.serving.cascade is None:
            return ()
        cascading = self.named.declaration.cascade
        return self._within(self.named.declaration.fallbacks if cascading is None else cascading.llms)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Who stands in where the LLM gives no answer: as the policy says, within the caller's limits."""
        return self._within((*self.asked_next, *self.named.declaration.fallbacks))

    @property
    def ceiling_usd(self) -> float:
        """USD that answering hardly exceeds: what is reserved.

        That is a call of the LLM or of one that stands in for it, or of all that a cascade may ask, with
        those of its scorer.
        """
        together = sum(map(self._ceiling_usd, (self.llm, *self.asked_next)))
        alone = max(map(self._ceiling_usd, (self.llm, *self.fallbacks)))
        return max(together, alone) + self.scoring_usd

    @property
    def scoring_usd(self) -> float:
        """USD that the calls of a cascade's scorer hardly exceed; 0 where there is none."""
        cascade = self.serving.cascade
        if cascade is None or not self.may_cascade:
            return 0.0
        return sum(
            scoring_ceilings(
                cascade,
                self.decisions,
                self.row,
                self.snapshot,
                asked=(self.llm, *self.asked_next),
                prompt_bytes=len(self.prompt.message.value or b""),
                input_tokens=self.prompt.input_tokens,
                most_tokens=self.limits.max_output_tokens,
            )
        )

    @property
    def versions(self) -> messages.Versions:
        """What the decision was made from."""
        return messages.Versions(
            map=self.decisions.map_version,
            rates=self.decisions.versions.error_rates,
            prices=self.decisions.versions.prices,
            policy=self.named.version,
            llms=self.decisions.versions.llms,
            lengths=self.decisions.versions.lengths,
        )

    def _within(self, names: Iterable[str]) -> tuple[str, ...]:
        """Give those that the limits leave, each once, less the LLM that was chosen."""
        wanted = tuple(dict.fromkeys(name for name in names if name != self.llm))
        if not wanted:
            return ()
        allowed = set(self.decisions.names) - set(self.decisions.removed(self.row))
        return tuple(name for name in wanted if name in allowed)

    def _ceiling_usd(self, name: str) -> float:
        return float(self.decisions.ceilings[self.row, self.decisions.names.index(name)])


def dispatch_record(decided: Decided, topics: Topics) -> Record:
    """Give the message that asks an executor to call the LLM."""
    prompt, decisions, row = decided.prompt, decided.decisions, decided.row
    return Record(
        topic=topics.dispatch(decided.llm, prompt.message.text_header(messages.LANE) or DEFAULT_LANE),
        key=prompt.prompt_id.encode(),
        value=prompt.message.value,
        headers=(
            *messages.event_headers(
                event_id=prompt.prompt_id, event_type="uniroute.dispatch", source=_SOURCE, now=decided.now
            ),
            *messages.carried(prompt.message, _CARRIED),
            (messages.DECISION_ID, decided.token.encode()),
            (messages.LLM, decided.llm.encode()),
            (messages.POLICY, decided.named.version.encode()),
            (messages.PREDICTED_ERROR, repr(float(decisions.predicted_errors[row])).encode()),
            (messages.PREDICTED_COST_USD, repr(float(decisions.predicted_costs[row])).encode()),
            (messages.INPUT_TOKENS, repr(float(prompt.input_tokens)).encode()),
            (messages.VERSIONS, messages.encode(decided.versions)),
            *_budget_headers(decided),
            *serving_headers(
                decided.serving,
                decisions,
                row,
                asked=decided.asked_next,
                may_cascade=decided.may_cascade,
            ),
            *([(messages.FALLBACKS, ",".join(decided.fallbacks).encode())] if decided.fallbacks else ()),
        ),
    )


def reservation_record(decided: Decided, topics: Topics) -> Record | None:
    """Give the entry that books what the decision reserved; ``None`` where it reserved nothing."""
    held, reserved = decided.held, decided.reserved
    grant = 0 if held is None else held.grant
    if grant == 0 and (reserved is None or reserved.held.grant == 0):
        return None
    prompt_id = decided.prompt.prompt_id
    value = messages.ReservationRecord(
        decision_id=decided.token,
        tenant=decided.prompt.tenant,
        grant=grant,
        reserved_usd=0.0 if held is None else held.usd,
    )
    if reserved is not None:
        value = msgspec.structs.replace(
            value,
            policy=reserved.policy,
            policy_period=_seconds(reserved.period_start),
            policy_grant=reserved.held.grant,
            policy_usd=reserved.held.usd,
        )
    event = messages.event_headers(
        event_id=f"{prompt_id}/reservation",
        event_type=messages.RESERVATION_EVENT,
        source=_SOURCE,
        now=decided.now,
    )
    return Record(topic=topics.usage, key=prompt_id.encode(), value=messages.encode(value), headers=event)


def decision_record(decided: Decided, topics: Topics) -> Record:
    """Give the record from which the decision can be made again."""
    prompt = decided.prompt
    return Record(
        topic=topics.decisions,
        key=prompt.prompt_id.encode(),
        value=messages.encode(_describe(decided)),
        headers=(
            *messages.event_headers(
                event_id=prompt.prompt_id, event_type="uniroute.decision", source=_SOURCE, now=decided.now
            ),
            *messages.carried(prompt.message, (messages.TRACEPARENT,)),
        ),
    )


def error_reply(message: Message, reply_to: str, error_class: str, sentence: str, *, now: datetime) -> Record:
    """Give the reply that tells a caller why there is no answer."""
    return Record(
        topic=reply_to,
        key=message.id_bytes or None,
        value=messages.error_value(error_class, sentence),
        headers=(
            *messages.event_headers(
                event_id=message.id_bytes.decode(errors="replace"),
                event_type="uniroute.reply",
                source=_SOURCE,
                now=now,
            ),
            *messages.carried(message, (messages.TRACEPARENT,)),
        ),
    )


def plain_limits(limits: Limits) -> dict[str, Any]:
    """Give the limits that were set, as JSON can hold them."""
    values = {one.name: getattr(limits, one.name) for one in fields(Limits)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
        if value not in (None, frozenset()) or (name == "candidates" and value is not None)
    }


def _budget_headers(decided: Decided) -> messages.Headers:
    headers = []
    if decided.reserved is not None:
        headers.append((messages.POLICY_PERIOD, str(_seconds(decided.reserved.period_start)).encode()))
    if decided.held is not None:
        headers.append((messages.RESERVED_USD, repr(decided.held.usd).encode()))
    if decided.priority != 1.0:
        headers.append((messages.PRIORITY, repr(decided.priority).encode()))
    if decided.degraded:
        headers.append((messages.DEGRADED, decided.degraded.encode()))
    return tuple(headers)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _describe(decided: Decided) -> DecisionRecord:
    decisions, row = decided.decisions, decided.row
    removed = decisions.removed(row)
    return DecisionRecord(
        prompt_id=decided.prompt.prompt_id,
        decision_id=decided.token,
        decided_at=decided.now,
        llm=decided.llm,
        policy=decided.named.version,
        policy_body=dict(decided.named.body),
        propensity=float(decisions.propensities[row]),
        draw=None if np.isnan(decisions.draws[row]) else float(decisions.draws[row]),
        cells=tuple(decisions.cells[row].tolist()),
        weights=decisions.weights[row].astype("<f4").tobytes(),
        input_tokens=decided.prompt.input_tokens,
        limits=plain_limits(decided.limits),
        candidates=tuple(
            CandidateRecord(
                llm=name, error=error, cost_usd=cost, output_tokens=tokens, removed_by=removed.get(name)
            )
            for name, error, cost, tokens in zip(
                decisions.names,
                decisions.errors[row].tolist(),
                decisions.costs[row].tolist(),
                decided.snapshot.output_tokens.tolist(),
                strict=True,
            )
        ),
        versions=decided.versions,
        tenant=decided.prompt.tenant,
        pace=decided.pace,
        reserved_usd=0.0 if decided.held is None else decided.held.usd,
        degraded=decided.degraded,
        canaries=dict(decided.snapshot.canaries),
        distance=None if decisions.distances is None else float(decisions.distances[row]),
    )
