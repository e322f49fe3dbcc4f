"""What tests of the learner share: a map of two cells, signed decisions, feedback, and what came of it."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Engine, func, select

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.quality.counts import ErrorCounts
from routing.quality.pool_prior import fit_pool_prior
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.learner import (
    Learner,
)
from workers.messages import Message, Record
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.llms import Registration
from workers.storage.snapshots import PublishedState, load_state
from workers.storage.tables import FeedbackRow

#: Of the clock by which the database says when feedback came.
NOW = int(datetime.now(UTC).timestamp())

_SERIAL = itertools.count()

SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)

#: Two cells of one resolution.
MAP = ClusterMap(
    centroids=np.eye(2, dtype=np.float32),
    sizes=(2,),
    temperature=16.0,
    fingerprint=Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="a"),
)

#: Learned from no LLM: every LLM's rates are its own.
PRIOR = fit_pool_prior(np.zeros((0, 1), dtype=np.int32), np.zeros((0, 0)), sizes=(2,))


def make_registration(name: str) -> Registration:
    """Register an LLM of a price."""
    llm = LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
    return Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=name)


class Axes:
    """An embedder of the map's own: the word says the axis."""

    fingerprint = MAP.fingerprint

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the first axis, or the second for ``second``."""
        return np.eye(2, dtype=np.float32)[[int(text == "second") for text in texts]]


def make_learner(engine: Engine, *, clock: Callable[[], float] = lambda: 1_800_000_000.0) -> Learner:
    """Make a learner that believes ``SIGNER``."""
    return Learner(
        engine=engine, signer=SIGNER, settings=Settings(), clock=clock, open_embedder=lambda _: Axes()
    )


def sign(
    llm: str = "a",
    *,
    cell: int = 0,
    shares: tuple[tuple[int, int], ...] = (),
    map_version: str = MAP.version,
    signer: DecisionSigner = SIGNER,
    prompt_id: str | None = None,
    decided_at: int = 1_800_000_000,
) -> str:
    """Give the id of a decision, which is another each time unless ``prompt_id`` is given."""
    facts = DecisionFacts(
        prompt_id=prompt_id or f"p-{next(_SERIAL)}",
        llm=llm,
        map_version=map_version,
        cells=(cell,),
        shares=shares,
        propensity=1.0,
        decided_at=decided_at,
    )
    return signer.sign(facts)


def feedback(feedback_id: str = "f-1", *, timestamp_ms: int = 1_800_000_000_000, **fields: Any) -> Message:
    """Make a message of the feedback topic; ``fields`` replace those of a good one."""
    own = sign(prompt_id=f"of {feedback_id:.50}")
    body = {"feedback_id": feedback_id, "decision_id": own, "score": 0.25, **fields}
    return raw_feedback(msgspec.json.encode(body), timestamp_ms=timestamp_ms)


def raw_feedback(value: bytes | None, *, timestamp_ms: int = 1_800_000_000_000) -> Message:
    """Make a message of the feedback topic of any bytes."""
    return Message(
        topic="uniroute.feedback", partition=1, offset=9, timestamp_ms=timestamp_ms, key=b"k", value=value
    )


def read_counts(engine: Engine, *llms: str) -> ErrorCounts:
    """Give what has been counted."""
    with transaction(engine) as session:
        return CellCounts(session).read(MAP.version, llms, n_cells=2)


def count_rows(engine: Engine) -> int:
    """Count the feedback that is kept."""
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(FeedbackRow)) or 0


def read_state(engine: Engine) -> PublishedState:
    """Read what a router would."""
    with transaction(engine) as session:
        return load_state(session)


def read_class(records: Sequence[Record]) -> str:
    """Give the class of the one dead letter."""
    [letter] = records

    assert letter.topic == "uniroute.dlq.feedback"
    return next(value.decode() for name, value in letter.headers if name == "uniroute-dlq-class")


def read_matrix(engine: Engine) -> np.ndarray:
    """Give the rates in force."""
    with transaction(engine) as session:
        found = ErrorRates(session).current(MAP.version)
    assert found is not None
    return found.rates


def read_rates(engine: Engine) -> dict[str, bytes]:
    """Give the published rates of each LLM, bit for bit."""
    with transaction(engine) as session:
        current = ErrorRates(session).current(MAP.version)
    assert current is not None
    return {name: current.rates[:, column].tobytes() for column, name in enumerate(current.llms)}
