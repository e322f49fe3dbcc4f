"""Reads feedback: what may be counted, as an entry, and what may not, as a class and a sentence."""

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from routing.clusters import ClusterMap, Share, split_observation
from routing.embedders import Embedder, Fingerprint
from routing.errors import InvalidInputError
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError
from workers.messages import FeedbackEvent, Message
from workers.storage.feedback import FeedbackEntry, count_in, name_pair

#: Of one value; a prompt has its own limit, and comes within one.
_MAX_FEEDBACK_BYTES = 16 * 1024
#: Feedback on older decisions is refused: the decisions topic does not keep them either.
MAX_AGE_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """Feedback on a prompt and an LLM, whose cells are found by embedding the prompt."""

    event: FeedbackEvent
    event_time: datetime


class FeedbackReader:
    """Reads messages of the feedback topic.

    Raises ``PoisonError``: of class ``forged_decision`` or ``malformed_decision`` for a decision id that was
    not signed here, ``expired_feedback`` for one of a decision that is too old, ``bad_feedback`` for a value
    out of range, and those of ``messages.decode``.
    """

    def __init__(self, signer: DecisionSigner, *, clock: Callable[[], float], max_prompt_bytes: int) -> None:
        """``clock`` gives seconds since 1970."""
        self._signer = signer
        self._clock = clock
        self._max_bytes = _MAX_FEEDBACK_BYTES + max_prompt_bytes

    def read(self, message: Message) -> FeedbackEntry | Asked:
        """Read one message."""
        raw = message.value or b""
        # What quotes a decision is small.
        limit = self._max_bytes if b'"prompt"' in raw[:_MAX_FEEDBACK_BYTES] else _MAX_FEEDBACK_BYTES
        event = messages.decode(message.value, FeedbackEvent, max_bytes=limit)
        event.check()
        if event.prompt:
            return Asked(event, self._read_time(message))
        facts = self._signer.verify(event.decision_id)
        if self._clock() - facts.decided_at > MAX_AGE_S:
            raise PoisonError("expired_feedback", "the decision is more than 30 days old")
        try:
            return _entry(event, facts, self._read_time(message))
        except InvalidInputError as error:
            raise PoisonError("bad_feedback", str(error)) from error

    def _read_time(self, message: Message) -> datetime:
        """Give the record's time, whatever its producer wrote there, but none to come: that would outlast."""
        try:
            said = datetime.fromtimestamp(message.timestamp_ms / 1000, tz=UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise PoisonError(
                "bad_feedback", f"the record's timestamp {message.timestamp_ms} is no time"
            ) from error
        return min(said, datetime.fromtimestamp(self._clock(), tz=UTC))


class Placer:
    """Places prompts in the map in force; the embedder is opened when the first one comes."""

    def __init__(self, open_embedder: Callable[[Fingerprint], Embedder]) -> None:
        self._open = open_embedder
        self._held: Embedder | None = None
        self._lock = threading.Lock()

    def place(
        self, asked: Sequence[Asked], cluster_map: ClusterMap, *, day: int
    ) -> list[FeedbackEntry | PoisonError]:
        """Give an entry for each, with the cells of its prompt and the ``day`` it came."""
        with self._lock:
            if self._held is None or self._held.fingerprint != cluster_map.fingerprint:
                self._held = self._open(cluster_map.fingerprint)
            placed = cluster_map.place(self._held.encode([one.event.prompt for one in asked]))
        return [
            _place(
                one,
                cluster_map.version,
                tuple(cells.tolist()),
                split_observation(weights, cells, cluster_map.sizes),
                day,
            )
            for one, weights, cells in zip(asked, placed.weights, placed.cells, strict=True)
        ]


def _place(
    asked: Asked, map_version: str, own: tuple[int, ...], split: tuple[Share, ...], day: int
) -> FeedbackEntry | PoisonError:
    event = asked.event
    cells, shares = count_in(own, split)
    prompt_id = name_prompt(event.prompt)
    try:
        return FeedbackEntry(
            feedback_id=event.feedback_id,
            decision_id=name_pair(prompt_id, event.llm),
            prompt_id=prompt_id,
            llm=event.llm,
            map_version=map_version,
            cells=cells,
            shares=shares,
            score=event.score,
            source=event.source,
            tenant=event.tenant or None,
            event_time=asked.event_time,
            day=day,
        )
    except InvalidInputError as error:
        return PoisonError("bad_feedback", str(error))


def _entry(event: FeedbackEvent, facts: DecisionFacts, event_time: datetime) -> FeedbackEntry:
    cells, shares = count_in(facts.cells, facts.shares)
    return FeedbackEntry(
        feedback_id=event.feedback_id,
        decision_id=_spell_once(event.decision_id),
        prompt_id=facts.prompt_id,
        llm=facts.llm,
        map_version=facts.map_version,
        cells=cells,
        shares=shares,
        score=event.score,
        source=event.source,
        tenant=event.tenant or None,
        event_time=event_time,
        decided_at=facts.decided_at,
        day=day_of(facts.decided_at),
        correction=event.correction,
    )


def name_prompt(text: str) -> str:
    """Give the id of a prompt that feedback spells out."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def day_of(seconds: float) -> int:
    """Give the UTC day of a time in seconds since 1970, in days since then."""
    return int(seconds // 86_400)


def _spell_once(token: str) -> str:
    """Give a token that verifies in the spelling it was signed in: base64 has several for the same bytes."""
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def refuse_entry(
    entry: FeedbackEntry, *, maps: frozenset[str], llms: Mapping[str, datetime | None]
) -> PoisonError | None:
    """Say why an entry that was signed cannot be counted; ``llms`` says when each was renewed."""
    if entry.map_version not in maps:
        return PoisonError("unknown_map", f"no cluster map {entry.map_version} is kept in this database")
    if entry.llm not in llms:
        return PoisonError("unknown_llm", f"no LLM {entry.llm!r} was ever registered in this database")
    renewed = llms[entry.llm]
    decided = entry.event_time.timestamp() if entry.decided_at is None else entry.decided_at
    if renewed is not None and decided < renewed.timestamp():
        return PoisonError(
            "late_feedback",
            f"it is about an LLM named {entry.llm!r} that was retired since: another has its name",
        )
    return None
