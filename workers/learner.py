"""The learner: feedback and usage into Postgres, each once; new error rates and lengths out of both."""

import base64
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Counter
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.costs import fit_latencies, fit_lengths
from routing.errors import InvalidInputError
from workers import messages
from workers.bookkeeping import Bookkeeper
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError, WaitableError
from workers.messages import FeedbackEvent, Message, Record
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts, lock_refits, try_lock_refits
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.ledger import Ledger
from workers.storage.lengths import LengthCounts, Lengths, LengthsVersion
from workers.storage.llms import LLMs
from workers.storage.policy_spend import PolicySpend
from workers.topics import Topics
from workers.transactions.dead_letters import dead_letter

_MAX_FEEDBACK_BYTES = 16 * 1024
#: Error rates outlive, by a day, the decisions made from them: the decisions topic keeps 30 days.
_KEEP_RATES = timedelta(days=31)
#: Lengths are published once so many replies are known, and again when an LLM has gained a fifth and ten.
_LEAST_REPLIES = 20
_GROWTH, _LEAST_NEWS = 1.2, 10.0

DUPLICATES = Counter(
    "uniroute_duplicate_feedback_total",
    "Feedback left out because its id, or its decision from the same source, was counted before",
)

log = structlog.get_logger(__name__)


class Learner:
    """Counts feedback and books usage.

    A batch that comes again changes nothing: what it holds of each topic is written in one database
    transaction, which leaves out what is there already.

    A decision counts once per source, however often and under whatever feedback ids it is scored.
    ``handle`` gives dead letters for what cannot be counted and nothing else; ``WaitableError`` passes
    through.
    """

    def __init__(self, *, engine: Engine, signer: DecisionSigner, settings: Settings) -> None:
        self._engine = engine
        self._signer = signer
        self._settings = settings
        self._bookkeeper = Bookkeeper(engine=engine, signer=signer, settings=settings)
        self._usage_topic = Topics(settings.topic_prefix).usage

    def handle(self, batch: Sequence[Message]) -> list[list[Record]]:
        """Count and book what is new and give the dead letters of the rest, by message."""
        usage = [row for row, message in enumerate(batch) if message.topic == self._usage_topic]
        feedback = [row for row, message in enumerate(batch) if message.topic != self._usage_topic]
        records: list[list[Record]] = [[] for _ in batch]
        for rows, handle in ((usage, self._bookkeeper.handle), (feedback, self._count)):
            if rows:
                for row, outputs in zip(rows, handle([batch[row] for row in rows]), strict=True):
                    records[row] = outputs
        return records

    def _count(self, batch: Sequence[Message]) -> list[list[Record]]:
        records: list[list[Record]] = [[] for _ in batch]
        entries: dict[int, FeedbackEntry] = {}
        for row, message in enumerate(batch):
            try:
                entries[row] = self._read(message)
            except PoisonError as error:
                records[row] = [self._dead_letter(message, error)]
        with transaction(self._engine) as session:
            known = _Known.read(session)
            for row, entry in list(entries.items()):
                if problem := known.refuse(entry):
                    records[row] = [self._dead_letter(batch[row], problem)]
                    del entries[row]
            fresh = list(Feedback(session).record(entries.values()).values())
            rows = [(entry, cell) for entry in fresh for cell in entry.cells]
            CellCounts(session).add(
                [entry.map_version for entry, _ in rows],
                [entry.llm for entry, _ in rows],
                [cell for _, cell in rows],
                [(1.0 - entry.score) * entry.weight for entry, _ in rows],
                [entry.weight for entry, _ in rows],
            )
        DUPLICATES.inc(len(entries) - len(fresh))
        return records

    def _dead_letter(self, message: Message, error: PoisonError) -> Record:
        return dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )

    def _read(self, message: Message) -> FeedbackEntry:
        event = messages.decode(message.value, FeedbackEvent, max_bytes=_MAX_FEEDBACK_BYTES)
        event.check()
        facts = self._signer.verify(event.decision_id)
        try:
            return _entry(message, event, facts)
        except InvalidInputError as error:
            raise PoisonError("bad_feedback", str(error)) from error


@dataclass(frozen=True, slots=True)
class _Known:
    """The maps and LLMs that feedback can be counted for."""

    maps: frozenset[str]
    llms: frozenset[str]

    @classmethod
    def read(cls, session: Session) -> Self:
        return cls(frozenset(ClusterMaps(session).list()), frozenset(LLMs(session).names()))

    def refuse(self, entry: FeedbackEntry) -> PoisonError | None:
        """Say why an entry that was signed cannot be counted all the same: its database was another."""
        if entry.map_version not in self.maps:
            return PoisonError("unknown_map", f"no cluster map {entry.map_version} is kept in this database")
        if entry.llm not in self.llms:
            return PoisonError("unknown_llm", f"no LLM {entry.llm!r} was ever registered in this database")
        return None


def _entry(message: Message, event: FeedbackEvent, facts: DecisionFacts) -> FeedbackEntry:
    return FeedbackEntry(
        feedback_id=event.feedback_id,
        decision_id=_spell_once(event.decision_id),
        prompt_id=facts.prompt_id,
        llm=facts.llm,
        map_version=facts.map_version,
        cells=facts.cells,
        score=event.score,
        source=event.source,
        event_time=_read_time(message),
    )


def _spell_once(token: str) -> str:
    """Give a token that verifies in the spelling it was signed in: base64 has several for the same bytes."""
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _read_time(message: Message) -> datetime:
    """Give the record's time, which is whatever its producer wrote there."""
    try:
        return datetime.fromtimestamp(message.timestamp_ms / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise PoisonError(
            "bad_feedback", f"the record's timestamp {message.timestamp_ms} is no time"
        ) from error


def refit(engine: Engine, *, reason: str, wait: bool = False) -> int | None:
    """Publish error rates from the counts as they stand; give the version's number.

    ``None``, and nothing is published, where no map is active, the rates in force already say the same, or
    another process is refitting and ``wait`` is not set. Each LLM's rates come from its own counts and the
    map's frozen prior alone.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).active()
        if fitted is None:
            return None
        if wait:
            lock_refits(session, fitted.cluster_map.version)
        elif not try_lock_refits(session, fitted.cluster_map.version):
            return None
        names = [found.llm.name for found in LLMs(session).list(states=("active",))]
        if not names:
            return None
        cells = sum(fitted.cluster_map.sizes)
        counts = CellCounts(session).read(fitted.cluster_map.version, names, n_cells=cells)
        rates = fitted.prior.error_rates(counts.errors, counts.labels)
        current = ErrorRates(session).current(fitted.cluster_map.version)
        known = current is not None and current.deviations is not None and list(current.llms) == names
        if known and current is not None and np.array_equal(current.rates, rates):
            return None
        deviations = fitted.prior.deviations(counts.errors, counts.labels)
        return ErrorRates(session).publish(
            fitted.cluster_map.version, names, rates, reason=reason, deviations=deviations
        )


def refit_lengths(engine: Engine) -> int | None:
    """Publish how long answers and calls are, from the replies booked so far; give the version's number.

    ``None``, and nothing is published, where no map is active, too few replies are known, another process is
    refitting, or the version in force covers the same LLMs and none has gained a fifth of its replies since:
    so versions stay few while replies are many. An LLM without replies is taken for what it was registered
    as.
    """
    with transaction(engine) as session:
        fitted = ClusterMaps(session).active()
        if fitted is None or not try_lock_refits(session, fitted.cluster_map.version):
            return None
        map_version, sizes = fitted.cluster_map.version, fitted.cluster_map.sizes
        llms = [found.llm for found in LLMs(session).list(states=("active",))]
        names = [llm.name for llm in llms]
        usage, timings = LengthCounts(session).read(map_version, names, n_cells=sum(sizes))
        replies = usage.replies[: sizes[0]].sum(axis=0)
        if replies.sum() < _LEAST_REPLIES or not _has_moved(
            Lengths(session).current(map_version), names, replies
        ):
            return None
        prior = np.array([llm.expected_output_tokens for llm in llms])
        return Lengths(session).publish(
            map_version,
            names,
            replies=replies,
            lengths=fit_lengths(usage, prior_tokens=prior, sizes=sizes),
            latencies=fit_latencies(timings),
        )


def _has_moved(current: LengthsVersion | None, names: Sequence[str], replies: NDArray[np.float64]) -> bool:
    if current is None or list(current.llms) != list(names):
        return True
    return bool(np.any(replies > _GROWTH * current.replies + _LEAST_NEWS))


def prune_versions(engine: Engine) -> int:
    """Delete what no decision still kept was made from, error rates and lengths of every map; count them.

    What was booked of the usage topic is forgotten with the records that topic no longer keeps.
    """
    keep_since = datetime.now(UTC) - _KEEP_RATES
    with transaction(engine) as session:
        Ledger(session).prune(before=keep_since)
        PolicySpend(session).prune(before=keep_since)
        return sum(
            versions.prune(map_version, keep_since=keep_since)
            for map_version in ClusterMaps(session).list()
            for versions in (ErrorRates(session), Lengths(session))
        )


class Refitter:
    """Refits once every ``interval_s`` while there is something new, until it is told to stop.

    Now and then it prunes what is no longer needed too. Whatever fails is told, and tried again at the next
    interval.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        interval_s: float,
        prune_interval_s: float = 3600.0,
        refit: Callable[..., int | None] = refit,
        refit_lengths: Callable[[Engine], int | None] = refit_lengths,
        prune: Callable[[Engine], int] = prune_versions,
        clock: Callable[[], float] = time.monotonic,
        on_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """``on_problem`` runs on the refitter's thread after each try, with ``None`` where all went well."""
        self._engine = engine
        self._interval_s = interval_s
        self._prune_interval_s = prune_interval_s
        self._refit = refit
        self._refit_lengths = refit_lengths
        self._prune = prune
        self._clock = clock
        self._on_problem = on_problem
        self._prune_at = clock()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; nothing else ends it."""
        while not stop.wait(self._interval_s):
            self._on_problem(self._try())

    def _try(self) -> str | None:
        """Do what is due; give what went wrong."""
        try:
            version = self._refit(self._engine, reason="feedback")
            if version is not None:
                log.info("error_rates_published", version=version)
            if (version := self._refit_lengths(self._engine)) is not None:
                log.info("lengths_published", version=version)
            if self._clock() >= self._prune_at:
                log.info("versions_pruned", versions=self._prune(self._engine))
                self._prune_at = self._clock() + self._prune_interval_s
        except WaitableError as error:
            log.warning("refit_waits", problem=str(error))
            return str(error)
        except Exception as error:
            log.exception("refit_failed")
            return f"the refit failed: {type(error).__name__}"
        return None
