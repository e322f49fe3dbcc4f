"""Puts probes to LLMs as live prompts are: on the probe lane, through executors; and grades the replies."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError

from workers import messages
from workers.cascades import CascadeSpec, Scorer
from workers.client import Client, Reply, read_reply
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import WaitableError
from workers.lifecycle.probing import Graded, ProbesFailedError
from workers.messages import CallFact
from workers.prompts import count_tokens
from workers.reading import NewRecords
from workers.settings import Settings
from workers.topics import Topics, create_topics, reply_topic

_LANE = "probe"
_APP = "onboarding"
_SOURCE = f"/{_APP}"
_POLL_MS = 200
#: What probes are booked as, in place of a policy's name: by this their cost is told from that of replies.
ONBOARDING = "onboarding"

_calls = msgspec.json.Decoder(tuple[CallFact, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One prompt for one LLM, and how its answer is graded."""

    llm: str
    #: Of OpenAI's chat.completions; its ``model`` is replaced.
    body: Mapping[str, Any]
    #: Its cell in each resolution of the map.
    cells: tuple[int, ...]
    #: Gives the score of an answer's text; ``None`` where the judge does.
    grade: Callable[[str], float] | None
    #: A right answer, for the judge; empty where none is known.
    reference: str = ""

    @classmethod
    def of_text(
        cls,
        llm: str,
        text: str,
        *,
        cells: Sequence[int],
        grade: Callable[[str], float] | None,
        reference: str = "",
    ) -> Self:
        """Make one that is a single turn of a user."""
        body = {"messages": [{"role": "user", "content": text}]}
        return cls(llm=llm, body=body, cells=tuple(cells), grade=grade, reference=reference)


class ProbeLane:
    """Asks LLMs, a batch of prompts at a time; use it as a context manager.

    A probe that has no answer within ``patience_s`` has none; executors drop it then too. No caller gets a
    reply. What probes cost, the ``judge``'s calls too, is booked on ``tenant``, under the name ``purpose``
    and the UTC day. Executors ask the judge: its key is theirs to read.
    """

    def __init__(
        self,
        settings: Settings,
        signer: DecisionSigner,
        *,
        map_version: str,
        tenant: str,
        judge: Scorer | None = None,
        purpose: str = ONBOARDING,
        patience_s: float = 120.0,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._map_version = map_version
        self._tenant = tenant
        self._judge = judge
        self._purpose = purpose
        self._patience_s = patience_s
        self._run = uuid.uuid4().hex[:12]
        self._sent = 0
        self._topics = Topics(settings.topic_prefix)
        self._reply_to = settings.reply_prefix + _APP
        self._resources = ExitStack()
        #: Opened for the first score.
        self._client: Client | None = None

    def __enter__(self) -> Self:
        create_topics(self._settings, [reply_topic(self._reply_to, self._settings)])
        try:
            # Not by a client in a group of its own: to join one would take a second or two.
            self._replies = self._resources.enter_context(NewRecords(self._settings, [self._reply_to]))
            self._producer = KafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap.split(","), enable_idempotence=True
            )
            self._resources.callback(self._producer.close)
        except KafkaError as error:
            self._resources.close()
            raise WaitableError("Kafka", str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def ask(self, probes: Sequence[Probe]) -> list[Graded | None]:
        """Give the grade of each probe's answer, ``None`` where there is none.

        Raises ``ProbesFailedError`` with the first reason where there is no answer at all.
        """
        now = datetime.now(UTC)
        waiting: dict[str, int] = {}
        try:
            for row, probe in enumerate(probes):
                prompt_id = f"probe-{self._run}-{self._sent}"
                self._sent += 1
                waiting[prompt_id] = row
                self._producer.send(
                    self._topics.dispatch(probe.llm, _LANE), **self._dispatch(prompt_id, probe, now)
                )
            self._producer.flush()
        except KafkaError as error:
            raise WaitableError("Kafka", f"probes were not taken: {error}") from error
        found: dict[int, Graded | None] = {}
        problem = f"no reply within {self._patience_s:g} s: is an executor serving?"
        end = time.monotonic() + self._patience_s
        while len(found) < len(waiting) and time.monotonic() < end:
            for reply in self._read_replies():
                if (row := waiting.get(reply.prompt_id, -1)) >= 0:
                    graded = _grade(probes[row], reply)
                    if not found and graded is None:
                        problem = reply.error or "the judge gave no score: does it serve, and is it paid?"
                    found[row] = graded
        if probes and not any(found.values()):
            asked = ", ".join(sorted({probe.llm for probe in probes}))
            raise ProbesFailedError(f"{asked} answered none of {len(probes)} probes: {problem}")
        return [found.get(row) for row in range(len(probes))]

    def score(self, graded: Graded, *, source: str) -> None:
        """Give a grade as feedback on the answer, which the learner counts as it does any caller's."""
        if self._client is None:
            self._client = self._resources.enter_context(Client(app=_APP, settings=self._settings))
        self._client.feedback(graded.decision_id, score=graded.score, source=source, tenant=self._tenant)

    def _read_replies(self) -> Iterator[Reply]:
        try:
            polled = self._replies.poll(timeout_ms=_POLL_MS)
        except KafkaError as error:
            raise WaitableError("Kafka", f"replies to probes were not read: {error}") from error
        for records in polled.values():
            yield from map(read_reply, records)

    def _dispatch(self, prompt_id: str, probe: Probe, now: datetime) -> dict[str, object]:
        token = self._signer.sign(
            DecisionFacts(
                prompt_id=prompt_id,
                llm=probe.llm,
                map_version=self._map_version,
                cells=probe.cells,
                propensity=1.0,
                decided_at=int(now.timestamp()),
            )
        )
        value = msgspec.json.encode({**probe.body, "model": probe.llm})
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return {
            "key": prompt_id.encode(),
            "value": value,
            "headers": [
                *messages.event_headers(
                    event_id=prompt_id, event_type="uniroute.dispatch", source=_SOURCE, now=now
                ),
                (messages.REPLY_TO, self._reply_to.encode()),
                (messages.DECISION_ID, token.encode()),
                (messages.LLM, probe.llm.encode()),
                (messages.LANE, _LANE.encode()),
                (messages.TENANT, self._tenant.encode()),
                (messages.POLICY, f"{self._purpose}@1".encode()),
                (messages.POLICY_PERIOD, str(int(day.timestamp())).encode()),
                (messages.INPUT_TOKENS, repr(_count_tokens(probe.body)).encode()),
                (messages.DEADLINE, (now + timedelta(seconds=self._patience_s)).isoformat().encode()),
                *self._ask_judge(probe),
            ],
        }

    def _ask_judge(self, probe: Probe) -> messages.Headers:
        """Have the executor ask the judge, as it asks the scorer of a cascade that takes any answer."""
        if probe.grade is not None or self._judge is None:
            return ()
        rule = CascadeSpec(
            accept_at=0.0,
            measure="scorer",
            confidences=(0.0, 1.0),
            chances=(0.0, 1.0),
            scorer=msgspec.structs.replace(self._judge, reference=probe.reference),
        )
        return ((messages.CASCADE, msgspec.json.encode(rule)),)


def _grade(probe: Probe, reply: Reply) -> Graded | None:
    if reply.error is not None:
        return None
    if probe.grade is not None:
        score = probe.grade(reply.text)
    elif (told := reply.headers.get(messages.CHANCE)) is not None:
        score = float(told)
    else:
        return None
    answer_usd, judge_usd = _split_cost(reply)
    return Graded(score=score, cost_usd=answer_usd, judge_usd=judge_usd, decision_id=reply.decision_id)


def _split_cost(reply: Reply) -> tuple[float | None, float]:
    """Give what the answer cost, ``None`` where nobody told, and what judging it cost."""
    calls = _calls.decode(reply.headers.get(messages.CALLS, "[]"))
    answers = [one.cost_usd for one in calls if one.llm != messages.SCORER and one.cost_usd is not None]
    judged = sum(one.cost_usd or 0.0 for one in calls if one.llm == messages.SCORER)
    return (sum(answers) if answers else None), judged


def _count_tokens(body: Mapping[str, Any]) -> float:
    return count_tokens("".join(str(turn.get("content") or "") for turn in body.get("messages", ())))
