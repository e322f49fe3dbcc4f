"""Feedback through real learners that die, held against a fold by one thread."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np
from installations import SIGNING_KEY, Installation
from kafka import KafkaProducer
from sqlalchemy import func, select

from routing.clusters import PARTS, Share
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.messages import FeedbackEvent
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.learning_tables import FeedbackCountRow
from workers.storage.sources import Sources
from workers.storage.tables import FeedbackRow
from workers.tenants.returns import TopicProgress
from workers.transactions.config import LoopConfig

LLMS, SOURCES = ("left", "right"), ("checker", "human", "judge:one")
_PATIENCE_S = 600.0
#: Source, LLM and cell; errors and labels.
Fold = dict[tuple[str, str, int], tuple[Fraction, Fraction]]
#: When it was given, in milliseconds since 1970, and what.
Sent = tuple[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refolded:
    """What came of it."""

    sent: int
    pieces: int
    counted: Fold
    expected: Fold
    seconds: float


def refold(installation: Installation, *, pieces: int, seed: int = 0) -> Refolded:
    """Send each piece one to three times in any order to three learners; kill two on the way.

    Every third piece is corrected once or twice, and its corrections too come in any order.
    One is killed after a fifth of the pieces has been counted, another after two fifths, by SIGKILL; each is
    started again.
    """
    rng = np.random.default_rng(seed)
    values, expected = _make(installation, pieces, rng)
    _send(installation, values, rng)
    sent_at = time.monotonic()
    processes = {slot: installation.serve("learner", slot=slot) for slot in "012"}
    for share, slot in ((0.2, "0"), (0.4, "1")):
        _await(installation, int(share * pieces))
        processes[slot].kill()
        processes[slot] = installation.serve("learner", slot=slot)
    _await(installation, pieces)
    _await_all(installation)
    seconds = time.monotonic() - sent_at
    for process in processes.values():
        process.stop()  # what it holds is finished: nothing may be counted after all
    return Refolded(
        sent=len(values),
        pieces=_count(installation),
        counted=_read(installation),
        expected=expected,
        seconds=seconds,
    )


def _make(installation: Installation, pieces: int, rng: np.random.Generator) -> tuple[list[Sent], Fold]:
    with transaction(installation.engine) as session:
        version = ClusterMaps(session).active_version()
        Sources(session).declare("judge:one", kind="judge")
    assert version is not None
    signer = DecisionSigner({0: SIGNING_KEY.encode()}, current=0)
    values: list[Sent] = []
    now_ms = int(time.time() * 1_000)
    expected: Fold = {}
    for number in range(pieces):
        llm, source = LLMS[rng.integers(2)], SOURCES[rng.integers(3)]
        cells = (int(rng.integers(2)), 2 + int(rng.integers(3)))
        shares = split(cells, int(rng.integers(1, 128))) if number % 2 else ()
        score = float(rng.random())
        token = signer.sign(
            DecisionFacts(
                prompt_id=f"p-{number}",
                llm=llm,
                map_version=version,
                cells=cells,
                shares=shares,
                propensity=1.0,
                decided_at=int(time.time()),
            )
        )
        for copy in range(int(rng.integers(1, 4))):
            # The third time under another id, as from a sender that forgot the first.
            event = FeedbackEvent(
                feedback_id=f"f-{number}-{copy // 2}", decision_id=token, score=score, source=source
            )
            values.append((now_ms, msgspec.json.encode(event)))
        if number % 3 == 0:
            corrections, score = _correct(token, source, number, now_ms, rng)
            values += corrections
        error = Fraction(round((1.0 - score) * 2**20), 2**20)
        for cell, parts in shares or [(cell, PARTS) for cell in cells]:
            errors, labels = expected.get((source, llm, cell), (Fraction(), Fraction()))
            share = Fraction(parts, PARTS)
            expected[source, llm, cell] = (errors + error * share, labels + share)
    return values, expected


def _correct(
    token: str, source: str, number: int, now_ms: int, rng: np.random.Generator
) -> tuple[list[Sent], float]:
    """Correct a piece once or twice, each correction sent twice; give these and the score that holds."""
    sent: list[Sent] = []
    scores: dict[int, float] = {}
    for age_ms in rng.choice(60_000, size=1 + int(rng.integers(2)), replace=False).tolist():
        scores[age_ms] = float(rng.random())
        event = FeedbackEvent(
            feedback_id=f"c-{number}-{age_ms}",
            decision_id=token,
            score=scores[age_ms],
            source=source,
            correction=True,
        )
        sent += [(now_ms - age_ms, msgspec.json.encode(event))] * 2
    return sent, scores[min(scores)]


def split(cells: tuple[int, int], parts: int) -> tuple[Share, ...]:
    """Split an observation over two cells of each of two resolutions, of 2 and 3 cells."""
    return (
        (cells[0], PARTS - parts),
        (1 - cells[0], parts),
        (cells[1], parts),
        (2 + (cells[1] - 1) % 3, PARTS - parts),
    )


def _send(installation: Installation, values: Sequence[Sent], rng: np.random.Generator) -> None:
    producer = KafkaProducer(
        bootstrap_servers=installation.settings.kafka_bootstrap, acks="all", linger_ms=20
    )
    # Without its key a copy may land on any partition, so learners meet over the same decision.
    sent = [
        producer.send(installation.topics.feedback, value=values[row][1], timestamp_ms=values[row][0])
        for row in rng.permutation(len(values))
    ]
    for one in sent:
        one.get(60)
    producer.close()


def _count(installation: Installation) -> int:
    with transaction(installation.engine) as session:
        return session.scalar(select(func.count()).select_from(FeedbackRow)) or 0


def _await(installation: Installation, pieces: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (found := _count(installation)) < pieces:
        assert time.monotonic() < deadline, f"{found} of {pieces} pieces counted"
        threading.Event().wait(0.1)  # leave the cores to the learners


def _await_all(installation: Installation) -> None:
    """Wait until the learners have committed every record: corrections add no piece."""
    settings, topic = installation.settings, installation.topics.feedback
    group_id = LoopConfig.from_settings(settings, role="learner", topics=(topic,)).group_id
    progress = TopicProgress(settings, group_id=group_id, topic=topic)
    ends, deadline = progress.ends(), time.monotonic() + _PATIENCE_S
    while not progress.is_booked(ends):
        assert time.monotonic() < deadline, "the learners are behind"
        threading.Event().wait(0.1)


def _read(installation: Installation) -> Fold:
    row = FeedbackCountRow
    query = select(row.source, row.llm, row.cell, func.sum(row.errors), func.sum(row.labels)).group_by(
        row.source, row.llm, row.cell
    )
    with transaction(installation.engine) as session:
        return {
            (source, llm, cell): (Fraction(errors), Fraction(labels))
            for source, llm, cell, errors, labels in session.execute(query)
        }
