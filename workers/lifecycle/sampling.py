"""Counter-evidence: prompts put to a second LLM, whose reply nobody is sent; its score counts as feedback.

One mechanism, with a budget of its own for each UTC day, looks beside the routes. Copies of live prompts go
to an LLM that was nearly chosen, or to a shadow. LLMs that the detector of changes wants to see come first,
on copies and on prompts with known answers alike, so that one which traffic avoids is seen to recover.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, Self

import msgspec
import numpy as np
import structlog
from sqlalchemy import Engine

from routing.costs import call_cost
from workers.cascades import Scorer
from workers.decision_ids import read_facts
from workers.lifecycle.dispatching import Probe
from workers.lifecycle.probing import Graded, ProbesFailedError
from workers.lifecycle.traffic import LivePrompt, allowed_for, copyable
from workers.messages import DecisionRecord, Message
from workers.reading import NewRecords
from workers.settings import Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, RegisteredLLM
from workers.storage.policy_books import PolicyBooks
from workers.storage.sources import CHECKED_SAMPLES, JUDGED_SAMPLES
from workers.storage.tenants import Tenant, Tenants
from workers.storage.watches import Watches
from workers.topics import Topics
from workers.transactions.consumer import read_message

#: What copies are booked as, in place of a policy's name.
SAMPLING = "sampling"
#: Who scores them, by what graded them.
_JUDGED, _CHECKED = JUDGED_SAMPLES, CHECKED_SAMPLES
#: Sampled prompts that wait for their decision; older ones are let go.
_MOST_PENDING = 10_000
#: Who is asked: those that routers know, and shadows, which get nothing but copies.
_ASKED = ("active", "canary", "shadow")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRule:
    """How much is sampled, and who is asked."""

    #: USD of a UTC day, answers and judge together; what a call costs beyond its estimate may pass it.
    usd_per_day: float
    #: Of live prompts.
    share: float = 0.02
    #: A second LLM's predicted error is at most so much above that of the one that answers.
    band: float = 0.1
    #: Probes under way at any time.
    batch: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """A stored prompt with a way to grade its answer, for LLMs that are to be seen again."""

    body: Mapping[str, Any]
    input_tokens: float
    cells: tuple[int, ...]
    grade: Callable[[str], float] | None
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A probe with what it is expected to cost, its judge included."""

    probe: Probe
    expected_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What one step came to."""

    asked: int = 0
    scored: int = 0
    usd: float = 0.0
    #: Probes that were left out, because the day's budget does not cover them.
    unaffordable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What is known of the LLMs and the tenants at a step."""

    llms: Mapping[str, RegisteredLLM]
    wanted: Sequence[str]
    tenants: Mapping[str, Tenant]
    map_version: str | None


class Lane(Protocol):
    """What puts probes to LLMs and gives feedback on their answers."""

    def ask(self, probes: Sequence[Probe]) -> list[Graded | None]:
        """Give each answer's grade."""

    def score(self, graded: Graded, *, source: str) -> None:
        """Give a grade as feedback."""


class Sampler:
    """Plans copies and re-probes, holds them to the day's budget, asks, and gives the scores as feedback."""

    def __init__(
        self,
        *,
        engine: Engine,
        settings: Settings,
        lane: Lane,
        rule: SamplingRule,
        judge: Scorer | None,
        known: Sequence[KnownAnswer] = (),
        rng: np.random.Generator,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``known`` are asked in their order, again and again; without a ``judge`` nothing live is copied."""
        self._engine = engine
        self._settings = settings
        self._lane = lane
        self._rule = rule
        self._judge = judge
        self._known = known
        self._rng = rng
        self._now = now
        self._next_known = 0
        self._pending: OrderedDict[str, LivePrompt] = OrderedDict()
        self._day: datetime | None = None
        self._base_usd = self._own_usd = 0.0

    def step(self, messages: Sequence[Message], decisions: Sequence[DecisionRecord]) -> Sampled:
        """Take in what was read of the ingest topic and of the decisions, and ask what that calls for.

        That is a batch at most: where more is sampled the rest is let go. Stored prompts leave half of it to
        copies.
        """
        view, most = self._read(), self._rule.batch
        copies = self._copy(messages, decisions, view)
        again = self._ask_again(view, most - min(len(copies), most // 2))
        planned = [*again, *copies][:most]
        affordable = self._affordable(planned)
        found = self._ask(affordable)
        return replace(found, unaffordable=len(planned) - len(affordable))

    def _read(self) -> _View:
        with transaction(self._engine) as session:
            llms = {one.llm.name: one for one in LLMs(session).list(states=_ASKED)}
            wanted = {name for name, kept in Watches(session).list().items() if kept.watch.wants_probes}
            return _View(
                llms=llms,
                wanted=sorted(wanted & set(llms)),
                tenants=Tenants(session).list(),
                map_version=ClusterMaps(session).active_version(),
            )

    def _copy(
        self, messages: Sequence[Message], decisions: Sequence[DecisionRecord], view: _View
    ) -> list[Planned]:
        """Plan a copy of each sampled prompt that a second LLM may be shown."""
        if self._judge is None:
            return []
        for one in copyable(messages, self._settings, view.tenants, share=self._rule.share):
            self._pending[one.prompt_id] = one
            if len(self._pending) > _MOST_PENDING:
                self._pending.popitem(last=False)
        planned = []
        for record in decisions:
            prompt = self._pending.pop(record.prompt_id, None)
            if prompt is None or read_facts(record.decision_id).map_version != view.map_version:
                continue
            second = self._choose(prompt, record, view)
            if second is not None:
                probe = Probe(llm=second, body=prompt.body, cells=record.cells, grade=None)
                planned.append(self._price(probe, view.llms[second], prompt.input_tokens))
        return planned

    def _choose(self, prompt: LivePrompt, record: DecisionRecord, view: _View) -> str | None:
        """Draw a second LLM: one that is wanted, else one within the band or a shadow.

        The caller's limits hold for all of them, as they did for the decision.
        """
        errors = {
            one.llm: one.error for one in record.candidates if one.removed_by is None and one.llm in view.llms
        }
        if record.llm not in errors:
            return None
        bound = errors.pop(record.llm) + self._rule.band
        shadows = [
            name
            for name, found in view.llms.items()
            if found.state == "shadow" and allowed_for([prompt], found.llm)
        ]
        near = [name for name in errors if errors[name] <= bound]
        wanted = [name for name in (*errors, *shadows) if name in view.wanted]
        names = sorted({*(wanted or [*near, *shadows])} - {record.llm})
        return names[int(self._rng.integers(len(names)))] if names else None

    def _ask_again(self, view: _View, count: int) -> list[Planned]:
        """Plan so many stored prompts for LLMs that are to be seen again, each in its turn."""
        if not view.wanted or not self._known:
            return []
        planned = []
        for turn in range(count):
            name = view.wanted[turn % len(view.wanted)]
            one = self._known[self._next_known % len(self._known)]
            self._next_known += 1
            probe = Probe(llm=name, body=one.body, cells=one.cells, grade=one.grade, reference=one.reference)
            planned.append(self._price(probe, view.llms[name], one.input_tokens))
        return planned

    def _price(self, probe: Probe, found: RegisteredLLM, input_tokens: float) -> Planned:
        tokens = found.llm.expected_output_tokens
        usd = call_cost(found.llm.price, input_tokens=input_tokens, output_tokens=tokens)
        if probe.grade is None and self._judge is not None:
            size = len(msgspec.json.encode(probe.body)) + len(probe.reference.encode())
            usd += self._judge.ceiling_usd(prompt_bytes=size, answer_tokens=tokens)
        return Planned(probe=probe, expected_usd=usd)

    def _affordable(self, planned: Sequence[Planned]) -> list[Planned]:
        """Give as many of the first as what is left of the day's budget covers."""
        left = self._rule.usd_per_day - self._spent()
        spent = np.cumsum([one.expected_usd for one in planned])
        return list(planned[: int(np.searchsorted(spent, left, side="right"))])

    def _spent(self) -> float:
        """Give what the day has cost: as booked, or as seen here where the books are behind."""
        day = self._now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        with transaction(self._engine) as session:
            booked = PolicyBooks(session).standing(SAMPLING, day).paid
        if day != self._day:
            self._day, self._base_usd, self._own_usd = day, booked, 0.0
        return max(booked, self._base_usd + self._own_usd)

    def _ask(self, planned: Sequence[Planned]) -> Sampled:
        """Ask, and give the scores as feedback; a probe that nobody answered is taken for paid."""
        if not planned:
            return Sampled()
        try:
            answers = self._lane.ask([one.probe for one in planned])
        except ProbesFailedError as error:
            log.warning("samples_failed", problem=str(error))
            answers = [None] * len(planned)
        usd, scored = 0.0, 0
        for one, graded in zip(planned, answers, strict=True):
            if graded is None or graded.cost_usd is None:
                usd += one.expected_usd
            if graded is not None:
                usd += (graded.cost_usd or 0.0) + graded.judge_usd
                scored += 1
                self._lane.score(graded, source=_JUDGED if one.probe.grade is None else _CHECKED)
        self._own_usd += usd
        return Sampled(asked=len(planned), scored=scored, usd=usd)


class LiveReader:
    """Reads the ingest topic and the decisions, committed ones alone, from now on; a context manager."""

    def __init__(self, settings: Settings) -> None:
        topics = Topics(settings.topic_prefix)
        self._prompts = topics.prompts
        self._records = NewRecords(settings, [topics.prompts, topics.decisions])

    def poll(self, *, timeout_ms: int) -> tuple[list[Message], list[DecisionRecord]]:
        """Give the prompts and the decisions that came, after at most ``timeout_ms``."""
        prompts, decisions = [], []
        for partition, records in self._records.poll(timeout_ms=timeout_ms).items():
            for record in records:
                if partition.topic == self._prompts:
                    prompts.append(read_message(record))
                else:
                    decisions.append(msgspec.json.decode(record.value, type=DecisionRecord))
        return prompts, decisions

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()
