"""Puts probes to an LLM as live prompts are: on its probe lane, through executors, and grades the replies."""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaError
from numpy.typing import NDArray

from workers import messages
from workers.client import Client, Reply
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import WaitableError
from workers.graders import Reference, grade
from workers.lifecycle.probing import Graded, ProbesFailedError
from workers.settings import Settings
from workers.topics import Topics

_LANE = "probe"
_SOURCE = "/onboarding"
_POLL_MS = 200
#: On dispatches and usage, in place of a policy's name and version.
_POLICY = "onboarding@1"


class DispatchedProbes:
    """Asks one LLM, a batch of prompts at a time; use it as a context manager.

    A probe that has no answer within ``patience_s`` has none; executors drop it then too. What probes cost is
    booked on ``tenant``.
    """

    def __init__(
        self,
        settings: Settings,
        signer: DecisionSigner,
        llm: str,
        references: Sequence[Reference],
        *,
        cells: NDArray[np.int32],
        map_version: str,
        tenant: str,
        patience_s: float = 120.0,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._llm = llm
        self._references = references
        self._cells = cells
        self._map_version = map_version
        self._tenant = tenant
        self._patience_s = patience_s
        self._run = uuid.uuid4().hex[:12]
        self._topic = Topics(settings.topic_prefix).dispatch(llm, _LANE)

    def __enter__(self) -> Self:
        self._client = Client(app="onboarding", settings=self._settings, group=f"onboarding-{self._run}")
        try:
            self._producer = KafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap.split(","), enable_idempotence=True
            )
        except KafkaError as error:
            self._client.close()
            raise WaitableError("Kafka", str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.close()
        self._client.close()

    def ask(self, rows: Sequence[int]) -> list[Graded | None]:
        """Give the grade of each prompt's answer, ``None`` where there is none.

        Raises ``ProbesFailedError`` with the first reason where there is no answer at all.
        """
        waiting = {f"probe-{self._run}-{row}": row for row in rows}
        now = datetime.now(UTC)
        try:
            for prompt_id, row in waiting.items():
                self._producer.send(self._topic, **self._dispatch(prompt_id, row, now))
            self._producer.flush()
        except KafkaError as error:
            raise WaitableError("Kafka", f"probes were not taken: {error}") from error
        found: dict[int, Graded | None] = {}
        problem = f"no reply within {self._patience_s:g} s: is an executor serving?"
        end = time.monotonic() + self._patience_s
        while len(found) < len(waiting) and time.monotonic() < end:
            for reply in self._client.poll(timeout_ms=_POLL_MS):
                if (row := waiting.get(reply.prompt_id, -1)) >= 0:
                    problem = (reply.error or problem) if not found else problem
                    found[row] = self._grade(row, reply)
        if not any(found.values()):
            raise ProbesFailedError(f"{self._llm} answered none of {len(rows)} probes: {problem}")
        return [found.get(row) for row in rows]

    def _grade(self, row: int, reply: Reply) -> Graded | None:
        if reply.error is not None:
            return None
        return Graded(score=grade(self._references[row], reply.text), cost_usd=reply.cost_usd)

    def _dispatch(self, prompt_id: str, row: int, now: datetime) -> dict[str, object]:
        reference = self._references[row]
        token = self._signer.sign(
            DecisionFacts(
                prompt_id=prompt_id,
                llm=self._llm,
                map_version=self._map_version,
                cells=tuple(self._cells[row].tolist()),
                propensity=1.0,
                decided_at=int(now.timestamp()),
            )
        )
        return {
            "key": prompt_id.encode(),
            "value": msgspec.json.encode(
                {"model": self._llm, "messages": [{"role": "user", "content": reference.prompt}]}
            ),
            "headers": [
                *messages.event_headers(
                    event_id=prompt_id, event_type="uniroute.dispatch", source=_SOURCE, now=now
                ),
                (messages.REPLY_TO, self._client.reply_topic.encode()),
                (messages.DECISION_ID, token.encode()),
                (messages.LLM, self._llm.encode()),
                (messages.LANE, _LANE.encode()),
                (messages.TENANT, self._tenant.encode()),
                (messages.POLICY, _POLICY.encode()),
                (messages.DEADLINE, (now + timedelta(seconds=self._patience_s)).isoformat().encode()),
            ],
        }
