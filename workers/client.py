"""What a Python caller imports: submit prompts, read replies, send feedback.

Any language with a Kafka client can do the same: this module holds no logic that the topics do not.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import CommitFailedError, KafkaError, RebalanceInProgressError
from kafka.structs import MemberState

from workers import messages
from workers.decision_ids import read_facts
from workers.errors import PoisonError, UsageError, WaitableError
from workers.settings import Settings
from workers.topics import MAX_RECORD_BYTES, Topics, create_topics, is_legal_topic, reply_topic

_POLL_MS = 200
_JOIN_MS = 500
#: A minute: a group gives way to a new member within its session timeout, 45 seconds.
_MOST_JOIN_POLLS = 120
#: A caller that finds no broker is told so after this long.
_CONNECT_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one prompt: an answer or an error, with the facts of the decision."""

    #: Empty where the prompt came without a usable one.
    prompt_id: str
    #: OpenAI's response as it came, or ``{"error": {...}}``.
    body: Mapping[str, Any]
    #: The LLM that answered; empty where none was called.
    llm: str
    #: Quote it in feedback; empty where nothing was decided.
    decision_id: str
    #: What the answer cost; ``None`` where no LLM was called or its usage is not known.
    cost_usd: float | None
    headers: Mapping[str, str]

    @property
    def error(self) -> str | None:
        """Why there is no answer; ``None`` where there is one."""
        error = self.body.get("error")
        if not error:
            return None
        return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)

    @property
    def text(self) -> str:
        """The answer's text; empty where there is none."""
        try:
            return self.body["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            return ""


class Client:
    """A caller with a reply topic of its own.

    ``app`` names the caller: replies come to ``uniroute.replies.APP``, which is created if it is missing,
    and are shared among the caller's processes that use the same name. With a ``group`` of its own, a process
    sees every reply from now on instead. Use it as a context manager; not thread-safe.

    Raises ``UsageError`` for a name that Kafka would refuse and ``WaitableError`` where Kafka is away.
    """

    def __init__(
        self,
        bootstrap: str | None = None,
        *,
        app: str,
        settings: Settings | None = None,
        group: str | None = None,
    ) -> None:
        settings = settings or Settings()
        if bootstrap is not None:
            settings = settings.model_copy(update={"kafka_bootstrap": bootstrap})
        self.reply_topic = settings.reply_prefix + app
        if not app or not is_legal_topic(self.reply_topic):
            raise UsageError(f"app is {app!r}: use 1 to 200 letters, digits, dots, dashes and underscores")
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._source = f"/clients/{app}"
        self._failures: list[Exception] = []
        try:
            # First, because it gives up soon where no broker answers.
            self._producer = _make_producer(settings)
            try:
                create_topics(settings, [reply_topic(self.reply_topic, settings)])
                self._consumer = _make_consumer(settings, self.reply_topic, group)
            except BaseException:
                self._producer.close(timeout=0)
                raise
        except KafkaError as error:
            raise WaitableError("Kafka", str(error)) from error
        if group is not None:
            try:
                self._await_assignment()
            except BaseException:
                self.close()
                raise

    def submit(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        model: str = "auto",
        prompt_id: str | None = None,
        policy: str | None = None,
        max_cost_usd: float | None = None,
        max_error: float | None = None,
        deadline: datetime | None = None,
        candidates: Sequence[str] = (),
        tenant: str | None = None,
        on_failure: str | None = None,
        **body: Any,  # noqa: ANN401 (any field of OpenAI's body)
    ) -> str:
        """Produce a prompt and give its id.

        ``prompt`` is a text or a list of OpenAI messages; ``body`` holds any further field of an OpenAI
        chat.completions body. ``on_failure`` says what becomes of a prompt that no LLM answers: ``reply`` (an
        error reply, the default), ``dead-letter`` or ``both``. The prompt is safe with Kafka once ``flush``
        has returned. Raises ``UsageError`` for a body that is too large for routers.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        wishes = {
            messages.REPLY_TO: self.reply_topic,
            messages.POLICY: policy,
            messages.MAX_COST_USD: max_cost_usd,
            messages.MAX_ERROR: max_error,
            messages.DEADLINE: deadline.astimezone(UTC).isoformat() if deadline else None,
            messages.CANDIDATES: ",".join(candidates) or None,
            messages.TENANT: tenant,
            messages.ON_FAILURE: on_failure,
            messages.TRACEPARENT: f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01",
        }
        headers = tuple((name, str(value).encode()) for name, value in wishes.items() if value is not None)
        value = msgspec.json.encode({"model": model, "messages": turns, **body})
        if len(value) > self._settings.max_prompt_bytes:
            raise UsageError(
                f"the prompt has {len(value)} bytes, at most {self._settings.max_prompt_bytes} are routed"
            )
        self._send(
            self._topics.prompts,
            prompt_id,
            value,
            event_id=prompt_id,
            event_type="uniroute.prompt",
            headers=headers,
        )
        return prompt_id

    def replies(self, *, timeout_s: float) -> Iterator[Reply]:
        """Yield replies as they come, until none has come for ``timeout_s`` seconds.

        A reply is marked as read when the next batch is asked for: a caller that dies in between sees the
        last few again, none is lost.
        """
        self.flush()
        waited_ms = 0
        while waited_ms < timeout_s * 1000:
            batch = self.poll(timeout_ms=_POLL_MS)
            waited_ms = 0 if batch else waited_ms + _POLL_MS
            yield from batch
            if batch:
                self._consumer.commit()

    def poll(self, *, timeout_ms: int) -> list[Reply]:
        """Give the replies that wait, after at most ``timeout_ms``; the caller commits by ``commit``.

        While the client is not in its group, up to half a second more: kafka-python joins at no other time.
        """
        return [read_reply(record) for records in self._poll(timeout_ms).values() for record in records]

    def commit(self) -> None:
        """Mark every reply that was polled as read."""
        self._consumer.commit()

    def feedback(
        self,
        decision: Reply | str,
        *,
        score: float,
        source: str = "human",
        feedback_id: str = "",
        tenant: str = "",
        correction: bool = False,
    ) -> None:
        """Say how good an answer was: 1 is right, 0 is wrong.

        ``decision`` is the reply, or its decision id alone. The same ``feedback_id`` counts once; by default
        a decision counts once per source. Another score of the same source is refused, unless it is a
        ``correction``: that takes its place. Raises ``UsageError`` for a score outside 0..1, a reply that no
        LLM answered, or what is no decision id.
        """
        decision_id = decision if isinstance(decision, str) else decision.decision_id
        if not decision_id:
            raise UsageError("no LLM answered this prompt: there is nothing to score")
        if isinstance(decision, str):
            try:
                read_facts(decision)
            except PoisonError as error:
                raise UsageError(f"{decision[:40]!r}: {error.sentence}") from error
        made = uuid.uuid4() if correction else uuid.uuid5(uuid.NAMESPACE_OID, decision_id)
        self._tell(
            messages.FeedbackEvent(
                feedback_id=feedback_id or f"{source}:{made}",
                decision_id=decision_id,
                score=score,
                source=source,
                tenant=tenant,
                correction=correction,
            ),
            key=decision_id,
        )

    def label(
        self,
        prompt: str,
        llm: str,
        *,
        score: float,
        source: str = "human",
        feedback_id: str = "",
        tenant: str = "",
    ) -> None:
        """Say how well an LLM answered a prompt that need not have passed through here.

        By default the same prompt and LLM count once per source.
        """
        made = uuid.uuid5(uuid.NAMESPACE_OID, f"{llm}\n{prompt}")
        self._tell(
            messages.FeedbackEvent(
                feedback_id=feedback_id or f"{source}:{made}",
                score=score,
                source=source,
                prompt=prompt,
                llm=llm,
                tenant=tenant,
            ),
            key=str(made),
        )

    def _tell(self, event: messages.FeedbackEvent, *, key: str) -> None:
        try:
            event.check()
        except PoisonError as error:
            raise UsageError(error.sentence) from error
        self._send(
            self._topics.feedback,
            key,
            messages.encode(event),
            event_id=event.feedback_id,
            event_type="uniroute.feedback",
        )

    def flush(self) -> None:
        """Wait until Kafka has acknowledged everything; raise ``WaitableError`` for what it has not."""
        try:
            self._producer.flush()
        except KafkaError as error:
            raise WaitableError("Kafka", f"not everything was acknowledged: {error}") from error
        if self._failures:
            failed, self._failures = self._failures, []
            raise WaitableError("Kafka", f"{len(failed)} messages were not acknowledged: {failed[0]}")

    def close(self) -> None:
        """Flush and let go of both connections."""
        try:
            self.flush()
        finally:
            self._producer.close()
            self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _poll(self, timeout_ms: int) -> Mapping[Any, Any]:
        state = self._consumer.group_metadata().state
        if state == MemberState.REBALANCING:
            # kafka-python forgets a join that outlives its poll: the client would read nothing more.
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001  # there is no other way to ask
        polled: Mapping[Any, Any] = self._consumer.poll(
            timeout_ms=timeout_ms if state == MemberState.STABLE else max(timeout_ms, _JOIN_MS)
        )
        return polled

    def _await_assignment(self) -> None:
        """Join the group now, so that "from now on" begins before the first prompt is sent.

        It is committed: a group that is made anew before it has read anything, as by a slow heartbeat or by
        partitions that are added, would begin at the end again, and miss what came meanwhile.
        """
        for _ in range(_MOST_JOIN_POLLS):
            self._poll(_POLL_MS)
            if self._consumer.assignment() and self._begin():
                return
        raise WaitableError("Kafka", f"no partition of {self.reply_topic} was assigned: ask again")

    def _begin(self) -> bool:
        """Commit the end of each partition that the group has never read; false while it is made anew."""
        try:
            unread = [one for one in self._consumer.assignment() if self._consumer.committed(one) is None]
            if unread:
                self._consumer.seek_to_end(*unread)
                for partition in unread:
                    self._consumer.position(partition)  # a commit leaves out what is not known yet
                self._consumer.commit()
        except (CommitFailedError, RebalanceInProgressError):
            return False
        return True

    def _send(
        self,
        topic: str,
        key: str,
        value: bytes,
        *,
        event_id: str,
        event_type: str,
        headers: messages.Headers = (),
    ) -> None:
        event = messages.event_headers(
            event_id=event_id, event_type=event_type, source=self._source, now=datetime.now(UTC)
        )
        try:
            future = self._producer.send(topic, key=key.encode(), value=value, headers=[*event, *headers])
        except KafkaError as error:
            raise WaitableError("Kafka", f"a message was not taken: {error}") from error
        future.add_errback(self._failures.append)


def _make_producer(settings: Settings) -> KafkaProducer:
    return KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        bootstrap_timeout_ms=_CONNECT_MS,
        enable_idempotence=True,
        linger_ms=5,
        max_request_size=MAX_RECORD_BYTES,
    )


def _make_consumer(settings: Settings, topic: str, group: str | None) -> KafkaConsumer:
    return KafkaConsumer(
        topic,
        bootstrap_servers=settings.kafka_bootstrap.split(","),
        bootstrap_timeout_ms=_CONNECT_MS,
        group_id=group or f"{topic}.readers",
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )


def read_reply(record: Any) -> Reply:  # noqa: ANN401 (kafka-python has no types)
    """Read whatever stands on the reply topic: nothing on it may end the caller's loop."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    return Reply(
        prompt_id=(record.key or b"").decode(errors="replace"),
        body=_read_body(record.value),
        llm=headers.get(messages.LLM, ""),
        decision_id=headers.get(messages.DECISION_ID, ""),
        cost_usd=_read_cost(headers.get(messages.COST_USD, "")),
        headers=headers,
    )


def _read_body(value: bytes | None) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(value or b"", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return {"error": {"message": f"the reply cannot be read: {error}", "code": "bad_reply"}}


def _read_cost(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
