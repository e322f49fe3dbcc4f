"""What the learner makes of feedback, on the real Postgres."""

import base64
import functools
import itertools
import string
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, func, select, text

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.quality.counts import ErrorCounts
from routing.quality.pool_prior import fit_pool_prior
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import WaitableError
from workers.learner import (
    DUPLICATES,
    Learner,
    Refitter,
    exclude_source,
    include_source,
    prune_versions,
    refit,
    roll_back_rates,
)
from workers.learner.believing import believe
from workers.messages import Message, Record
from workers.settings import Settings
from workers.storage import migrate
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.journal import Journal
from workers.storage.learning_rules import LearningRules
from workers.storage.llms import LLMs, Registration
from workers.storage.snapshots import PublishedState, load_state
from workers.storage.sources import Sources
from workers.storage.tables import FeedbackRow
from workers.storage.tenants import Tenant, Tenants
from workers.storage.watches import Watches

pytestmark = pytest.mark.stack

ALPHABET = string.ascii_letters + string.digits + "-_"
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


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with LLMs ``a`` and ``b`` and the map in force."""
    made = make_engine(migrated_url)
    with transaction(made) as session:
        for name in ("a", "b"):
            LLMs(session).register(make_registration(name))
        ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
    yield made
    made.dispose()


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


def test_feedback_is_counted_in_its_decisions_cell(engine: Engine) -> None:
    """A score of 1/4 is 3/4 of an error, and one label, of the LLM and the cell that the token names."""
    records = make_learner(engine).handle(
        [
            feedback("f-1", decision_id=sign("a", cell=0), score=0.25),
            feedback("f-2", decision_id=sign("a", cell=0), score=1.0),
            feedback("f-3", decision_id=sign("b", cell=1), score=0.0),
        ]
    )
    counts = read_counts(engine, "a", "b")

    assert records == [[], [], []]
    assert counts.errors.tolist() == [[0.75, 0.0], [0.0, 1.0]]
    assert counts.labels.tolist() == [[2.0, 0.0], [0.0, 1.0]]


def test_feedback_under_a_soft_map_is_split(engine: Engine) -> None:
    """3/4 and 1/4 of one label and of its error; a correction moves both; a refold gives the same bits."""
    token = sign(shares=((0, 96), (1, 32)))
    learner = make_learner(engine)
    learner.handle([feedback("f-1", decision_id=token, score=0.0), feedback("f-2", score=0.5)])
    first = read_counts(engine, "a")
    again = feedback("f-3", timestamp_ms=1_800_000_001_000, decision_id=token, score=0.5, correction=True)
    learner.handle([again])
    counts = read_counts(engine, "a")
    with transaction(engine) as session:
        CellCounts(session).refold()

    assert first.errors[:, 0].tolist() == [0.75 + 0.5, 0.25]
    assert first.labels[:, 0].tolist() == [0.75 + 1.0, 0.25]
    assert counts.errors[:, 0].tolist() == [0.375 + 0.5, 0.125]
    assert counts.labels[:, 0].tolist() == [1.75, 0.25]
    assert np.array_equal(read_counts(engine, "a").errors, counts.errors)
    assert np.array_equal(read_counts(engine, "a").labels, counts.labels)


def test_feedback_sent_twice_counts_once(engine: Engine) -> None:
    """In one batch, over two batches and over two learners: one id is one label."""
    learner, other = make_learner(engine), make_learner(engine)
    first = feedback("f-1", score=0.5)
    batch = [first, first, feedback("f-2", score=0.0)]

    learner.handle(batch)
    learner.handle(batch)
    other.handle(list(reversed(batch)))
    counts = read_counts(engine, "a")

    assert counts.labels[0, 0] == 2.0
    assert counts.errors[0, 0] == 1.5
    assert count_rows(engine) == 2


def test_a_decision_scored_again_under_fresh_ids_counts_once(engine: Engine) -> None:
    """Its first score stays, whoever made up ids for more; another source counts; the rest is a metric."""
    token = sign()
    before = read_duplicates()
    first = [feedback(f"f-{number}", decision_id=token, score=0.0) for number in range(3)]
    second = [
        feedback("g-1", decision_id=token, score=0.0),
        feedback("g-2", decision_id=token, source="judge", score=1),
    ]
    records = [*make_learner(engine).handle(first), *make_learner(engine).handle(second)]
    counts = read_counts(engine, "a")

    assert records == [[]] * 5
    assert counts.labels[0, 0] == 2.0
    assert counts.errors[0, 0] == 1.0
    assert read_duplicates() - before == 3


@pytest.mark.parametrize("again", ["f-1", "f-2"])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_source_that_contradicts_itself_is_refused(engine: Engine, again: str, batches: int) -> None:
    """Another score of the same decision, under its id or another, is a dead letter; the first stays."""
    token = sign()
    learner = make_learner(engine)
    pieces = [feedback("f-1", decision_id=token, score=0.0), feedback(again, decision_id=token, score=1.0)]
    if batches == 1:
        first, second = learner.handle(pieces)
    else:
        [first], [second] = (learner.handle([piece]) for piece in pieces)

    assert first == []
    assert read_class(second) == "contradictory_feedback"
    assert read_counts(engine, "a").errors[0, 0] == 1.0


def test_an_id_of_other_feedback_is_refused(engine: Engine) -> None:
    """Two applications that number their feedback from 1 lose none in silence; what comes again may."""
    learner = make_learner(engine)
    ours = feedback("1", source="judge", decision_id=sign())
    theirs = feedback("1", source="human", decision_id=sign("b"))
    first, second = learner.handle([ours]), learner.handle([ours, theirs])

    assert (first, second[0]) == ([[]], [])
    assert read_class(second[1]) == "reused_feedback_id"
    assert read_counts(engine, "a", "b").labels[0].tolist() == [1.0, 0.0]


def test_corrections_of_an_excluded_source_change_nothing(engine: Engine) -> None:
    """What it said before it was left out stays as it was, in the counts and after a refold."""
    learner, token = make_learner(engine), sign()
    learner.handle([feedback("f", decision_id=token, score=1.0, source="judge")])
    exclude_source(engine, "judge", since=datetime.now(UTC), apply=True)
    correction = feedback("c", decision_id=token, score=0.0, source="judge", correction=True)

    assert learner.handle([correction]) == [[]]
    for _ in range(2):
        assert read_counts(engine, "a").errors[0, 0] == 0.0
        with transaction(engine) as session:
            CellCounts(session).refold()


def test_a_correction_takes_the_place_of_a_score(engine: Engine) -> None:
    """Whatever comes again afterwards, and in whatever order: the latest correction counts, once."""
    token = sign()
    early, late = 1_800_000_001_000, 1_800_000_002_000
    given = feedback("f-1", decision_id=token, score=0.0)
    corrected = feedback("f-2", timestamp_ms=early, decision_id=token, score=0.5, correction=True)
    again = feedback("f-3", timestamp_ms=late, decision_id=token, score=0.75, correction=True)
    learner = make_learner(engine, clock=lambda: 1_800_000_010.0)
    seen = []
    for batch in ([given], [again], [corrected, given], [again]):
        assert learner.handle(batch) == [[]] * len(batch)
        counts = read_counts(engine, "a")
        seen.append((float(counts.errors[0, 0]), float(counts.labels[0, 0])))

    assert seen == [(1.0, 1.0), (0.25, 1.0), (0.25, 1.0), (0.25, 1.0)]


def test_feedback_on_an_old_decision_has_expired(engine: Engine) -> None:
    """Thirty days and a second after the decision it is refused; a second before it counts."""
    decided, days = 1_800_000_000, 30 * 24 * 3600
    late = make_learner(engine, clock=lambda: decided + days + 1.0)
    timely = make_learner(engine, clock=lambda: decided + days - 1.0)

    assert read_class(late.handle([feedback()])[0]) == "expired_feedback"
    assert timely.handle([feedback()]) == [[]]


def test_feedback_on_a_retired_namesake_is_not_counted_for_its_successor(engine: Engine) -> None:
    """A decision made before the name was taken over is about another LLM."""
    with transaction(engine) as session:
        LLMs(session).retire("a")
        LLMs(session).register(make_registration("a"))
        renewed = LLMs(session).renewals()["a"]
    assert renewed is not None
    before = sign(decided_at=int(renewed.timestamp()) - 5)
    after = sign(decided_at=int(renewed.timestamp()) + 5)
    learner = make_learner(engine, clock=renewed.timestamp)
    refused, counted = learner.handle(
        [feedback("f-1", decision_id=before), feedback("f-2", decision_id=after)]
    )

    assert read_class(refused) == "late_feedback"
    assert counted == []
    assert read_counts(engine, "a").labels[0, 0] == 1.0


def test_a_prompt_and_an_llm_are_placed_on_arrival(engine: Engine) -> None:
    """The prompt is embedded by the map's embedder and counted in its cell; twice is once."""
    learner = make_learner(engine)
    body = {"feedback_id": "l-1", "prompt": "second", "llm": "a", "score": 0.0, "source": "checker"}
    message = raw_feedback(msgspec.json.encode(body))

    assert learner.handle([message]) == [[]]
    assert learner.handle([message, feedback("f-1")]) == [[], []]
    assert read_counts(engine, "a").labels[:, 0].tolist() == [1.0, 1.0]


def test_a_prompt_and_an_llm_count_once_per_source(engine: Engine) -> None:
    """Whatever the ids: an equal score again adds nothing, another is a contradiction; a namesake counts."""
    learner = make_learner(engine)

    def label(feedback_id: str, score: float, source: str = "checker") -> Message:
        body = {"feedback_id": feedback_id, "prompt": "second", "llm": "a", "score": score, "source": source}
        return raw_feedback(msgspec.json.encode(body))

    first = learner.handle([label(f"l-{n}", 0.0) for n in range(20)] + [label("m", 0.0, "human")])
    [[second]] = learner.handle([label("n", 1.0)])

    assert first == [[]] * 21
    assert read_class([second]) == "contradictory_feedback"
    assert read_counts(engine, "a").labels[1, 0] == 2.0
    with transaction(engine) as session:
        LLMs(session).retire("a")
        LLMs(session).register(make_registration("a"))
        renewed = LLMs(session).renewals()["a"]
    assert renewed is not None
    later = make_learner(engine, clock=lambda: renewed.timestamp() + 5e7)
    assert later.handle([label("o", 1.0)]) == [[]]
    assert read_counts(engine, "a").labels[1, 0] == 1.0


@pytest.mark.parametrize("order", [(0.75, 0.5), (0.5, 0.75)])
@pytest.mark.parametrize("batches", [1, 2])
def test_of_corrections_at_one_time_the_lowest_holds(
    engine: Engine, order: tuple[float, float], batches: int
) -> None:
    """In one batch or over two, in whatever order they come."""
    learner, token = make_learner(engine), sign()
    learner.handle([feedback("f", decision_id=token, score=1.0)])
    pieces = [feedback(f"c-{s}", decision_id=token, score=s, correction=True) for s in order]
    for batch in [pieces] if batches == 1 else [[one] for one in pieces]:
        learner.handle(batch)

    assert read_counts(engine, "a").errors[0, 0] == 0.5


def test_a_capped_source_gives_no_more_than_its_cap(engine: Engine) -> None:
    """Two an hour: the third is refused, for whichever tenant; what came before comes again."""
    with transaction(engine) as session:
        for name in ("t", "u"):
            Tenants(session).add(Tenant(name=name))
        Sources(session).declare("judge:j", kind="judge", per_hour=2)
    learner = make_learner(engine, clock=lambda: datetime.now(UTC).timestamp())
    token = functools.partial(sign, decided_at=int(datetime.now(UTC).timestamp()))
    pieces = [feedback(f"f-{n}", decision_id=token(), source="judge:j", tenant="t") for n in range(3)]
    other = feedback("g", decision_id=token(), source="judge:j", tenant="u")
    first = learner.handle(pieces[:2])
    third, fourth, again = learner.handle([pieces[2], other, pieces[0]])

    assert first == [[], []]
    assert read_class(third) == "too_much_feedback"
    assert read_class(fourth) == "too_much_feedback"
    assert again == []
    assert read_counts(engine, "a").labels[0, 0] == 2.0


def test_made_up_tenants_share_a_cap(engine: Engine) -> None:
    """A source that names another tenant each time gives no more for it, in one batch or over several."""
    with transaction(engine) as session:
        Sources(session).declare("judge:j", kind="judge", per_hour=2)
    now = int(datetime.now(UTC).timestamp())
    learner = make_learner(engine, clock=lambda: float(now))
    pieces = [
        feedback(f"f-{n}", decision_id=sign(decided_at=now), source="judge:j", tenant=f"t-{n}")
        for n in range(4)
    ]
    first, last = learner.handle(pieces[:3]), learner.handle(pieces[3:])

    assert [read_class(one) if one else "" for one in first + last] == ["", "", *["too_much_feedback"] * 2]


def test_names_that_nobody_declared_are_one_source_of_their_kind(engine: Engine) -> None:
    """A hundred made-up names make one label of a decision, and share their kind's cap."""
    learner, token = make_learner(engine, clock=lambda: datetime.now(UTC).timestamp()), sign(decided_at=NOW)
    learner.handle(
        [feedback(f"s-{n}", decision_id=token, score=0.0, source=f"human:{n}") for n in range(100)]
    )

    assert read_counts(engine, "a").labels[0, 0] == 1.0
    with transaction(engine) as session:
        Sources(session).declare("human", kind="human", per_hour=5)
        Sources(session).declare("human:desk", kind="human")
        assert set(Sources(session).list()) == {"human", "human:desk"}
    given = learner.handle(
        [feedback(f"t-{n}", decision_id=sign(decided_at=NOW), source=f"human:{n}") for n in range(9)]
    )
    known = learner.handle([feedback("d", decision_id=token, score=0.5, source="human:desk")])
    assert [read_class(one) if one else "" for one in given] == [""] * 4 + ["too_much_feedback"] * 5
    assert known == [[]]


def test_learners_side_by_side_hold_a_source_to_one_cap(engine: Engine) -> None:
    """Four learners get five pieces each at the same time; five are taken."""
    with transaction(engine) as session:
        Sources(session).declare("human", kind="human", per_hour=5)
    refused: list[Record] = []
    start = threading.Barrier(4)

    def learn(number: int) -> None:
        learner = make_learner(engine, clock=lambda: datetime.now(UTC).timestamp())
        pieces = [feedback(f"{number}-{n}", decision_id=sign(decided_at=NOW)) for n in range(5)]
        start.wait()
        refused.extend(record for records in learner.handle(pieces) for record in records)

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 15
    assert count_rows(engine) == 5


@pytest.mark.parametrize("timestamp_ms", [0, 4_000_000_000_000])
def test_a_senders_clock_evades_no_exclusion(engine: Engine, timestamp_ms: int) -> None:
    """What came after T is left out, before and after the command, whatever time it bears."""
    began = datetime.now(UTC)
    learner = make_learner(engine)
    learner.handle([feedback("f-1", source="judge", timestamp_ms=timestamp_ms)])

    assert exclude_source(engine, "judge", since=began, apply=True).pieces == 1
    learner.handle([feedback("f-2", source="judge", timestamp_ms=timestamp_ms)])
    assert read_counts(engine, "a").labels[0, 0] == 0.0


def test_a_correction_from_the_future_is_overtaken(engine: Engine) -> None:
    """It counts as given when it came: a sender whose clock is ahead can be corrected all the same."""
    now, token = [1_800_000_000.0], sign()
    learner = make_learner(engine, clock=lambda: now[0])
    ahead = feedback("f-2", decision_id=token, score=0.0, correction=True, timestamp_ms=4_000_000_000_000)
    learner.handle([feedback("f-1", decision_id=token, score=0.5), ahead])
    now[0] += 10
    learner.handle(
        [feedback("f-3", decision_id=token, score=1.0, correction=True, timestamp_ms=1_800_000_010_000)]
    )

    assert read_counts(engine, "a").errors[0, 0] == 0.0


def test_excluding_a_source_restores_the_counts_and_rates_of_a_run_without_it(engine: Engine) -> None:
    """Bit for bit; without --yes nothing changes, and taking it in again restores what was."""
    rng = np.random.default_rng(0)
    scores = rng.random(60)
    with transaction(engine) as session:
        Sources(session).declare("judge:liar", kind="judge")
    learner = make_learner(engine)
    learner.handle([feedback(f"h-{n}", score=float(score)) for n, score in enumerate(scores)])
    refit(engine, reason="without")
    clean, rates = read_counts(engine, "a"), read_matrix(engine)
    learner.handle([feedback(f"l-{n}", score=0.3, source="judge:liar") for n in range(30)])
    refit(engine, reason="with")
    soiled, moved = read_counts(engine, "a"), read_matrix(engine)
    shown = exclude_source(engine, "judge:liar")

    assert shown.pieces == 30
    assert np.array_equal(read_counts(engine, "a").errors, soiled.errors)
    assert not np.array_equal(moved, rates)
    exclude_source(engine, "judge:liar", apply=True)
    learner.handle([feedback("l-99", score=0.3, source="judge:liar")])
    left = read_counts(engine, "a")
    assert np.array_equal(left.errors, clean.errors)
    assert np.array_equal(left.labels, clean.labels)
    assert np.array_equal(read_matrix(engine), rates)
    with transaction(engine) as session:
        [entry] = Journal(session).read(subject="judge:liar")
    assert (entry.kind, entry.body["pieces"]) == ("feedback excluded", 30)
    assert include_source(engine, "judge:liar", apply=True).pieces == 31


@pytest.mark.parametrize("seed", range(3))
def test_excluding_since_a_time_takes_its_corrections_back(engine: Engine, seed: int) -> None:
    """What was corrected after T says again what it said; the counts are a fold without what came since.

    Bit for bit; what is corrected meanwhile is kept, and counts once the source is taken in again.
    """
    rng = np.random.default_rng(seed)
    tokens = [sign(shares=((0, 96), (1, 32))) if n % 2 else sign() for n in range(12)]
    learner = make_learner(engine)

    def send(said: list[Said]) -> None:
        learner.handle(
            [
                feedback(
                    f"f-{next(_SERIAL)}",
                    decision_id=tokens[one.decision],
                    score=one.score,
                    source=one.source,
                    correction=one.correction,
                    timestamp_ms=1_800_000_000_000 + one.second * 1_000,
                )
                for one in said
            ]
        )

    early, late, meanwhile = (draw_said(rng, 40) for _ in range(3))
    send(early)
    moment = datetime.now(UTC)
    send(late)
    soiled = read_by_source(engine)
    shown = exclude_source(engine, "judge", since=moment)

    assert shown.pieces > 0
    assert read_by_source(engine) == soiled == fold(early + late)
    exclude_source(engine, "judge", since=moment, apply=True)
    others = [one for one in late if one.source != "judge"]
    assert read_by_source(engine) == fold(early + others)
    send(meanwhile)
    others += [one for one in meanwhile if one.source != "judge"]
    assert read_by_source(engine) == fold(early + others)
    include_source(engine, "judge", apply=True)
    assert read_by_source(engine) == fold(early + late + meanwhile)


@dataclass(frozen=True)
class Said:
    """A score of a decision, first or corrected."""

    decision: int
    source: str
    correction: bool
    score: float
    second: int


def draw_said(rng: np.random.Generator, n: int) -> list[Said]:
    """Draw scores of two sources; a decision's first score by one is always the same."""
    found = []
    for _ in range(n):
        decision, source, correction = int(rng.integers(12)), "human" if rng.random() < 0.5 else "judge", True
        score, second = float(rng.random()), -int(rng.integers(30))
        if rng.random() < 0.4:
            correction, score, second = False, (decision + len(source)) / 32, 0
        found.append(Said(decision, source, correction, score, second))
    return found


def fold(said: Sequence[Said]) -> dict[tuple[str, int], tuple[Fraction, Fraction]]:
    """Count by hand: of each decision and source the latest correction, of equals the lowest, else the first.

    Decisions of an odd number lie to three quarters in cell 0 and to one in cell 1, others in cell 0.
    """
    latest: dict[tuple[int, str], Said] = {}
    for one in said:
        key = one.decision, one.source
        if key not in latest or _rank(one) > _rank(latest[key]):
            latest[key] = one
    counts: dict[tuple[str, int], tuple[Fraction, Fraction]] = {}
    for one in latest.values():
        error = Fraction(round((1 - one.score) * 2**20), 2**20)
        for cell, parts in ((0, 96), (1, 32)) if one.decision % 2 else ((0, 128),):
            errors, labels = counts.get((one.source, cell), (Fraction(), Fraction()))
            share = Fraction(parts, 128)
            counts[one.source, cell] = errors + error * share, labels + share
    return counts


def _rank(one: Said) -> tuple[bool, int, float]:
    return one.correction, one.second if one.correction else 0, -one.score


def read_by_source(engine: Engine) -> dict[tuple[str, int], tuple[Fraction, Fraction]]:
    """Give errors and labels of ``a`` by source and cell, exactly; cells without are left out."""
    with transaction(engine) as session:
        found = CellCounts(session).by_source(MAP.version, ["a"], n_cells=2, epochs=None)
    return {
        (source, cell): (Fraction(counts.errors[cell, 0]), Fraction(counts.labels[cell, 0]))
        for source, counts in found.items()
        for cell in range(2)
        if counts.labels[cell, 0] > 0
    }


def test_older_days_are_forgotten_by_the_feedback_of_later_ones(engine: Engine) -> None:
    """Half after ``half_life`` pieces, in whatever order the days come, and the same after a refold."""
    day = 86_400
    with transaction(engine) as session:
        LearningRules(session).declare(8.0)
    pieces = [
        feedback(f"{n}-{piece}", decision_id=sign(decided_at=1_800_000_000 - n * day), score=0.0)
        for n, count in enumerate((4, 4, 8))
        for piece in range(count)
    ]
    make_learner(engine).handle(pieces[::-1])
    beliefs = []
    for _ in range(2):
        with transaction(engine) as session:
            beliefs.append(believe(session, MAP.version, ["a"], sizes=(2,)).counts)
            CellCounts(session).refold()

    # The newest day's 4, and what 4 newer pieces leave of the two days before: 2 ** -(4 / 8) of 4 + 8.
    assert beliefs[0].labels[0, 0] == pytest.approx(4 + 12 * 2**-0.5)
    assert np.array_equal(beliefs[0].labels, beliefs[1].labels)
    assert np.array_equal(beliefs[0].errors, beliefs[1].errors)


def test_only_what_is_believed_drives_out_what_is_older(engine: Engine) -> None:
    """An implicit source's thousand pieces age nobody by more than its cap of the evidence."""
    learner = make_learner(engine)
    old = [sign(decided_at=1_800_000_000 - 3 * 86_400) for _ in range(70)]
    learner.handle([feedback(f"h-{n}", decision_id=token, score=1.0) for n, token in enumerate(old)])
    learner.handle([feedback(f"i-{n}", score=1.0, source="implicit") for n in range(1_000)])
    with transaction(engine) as session:
        found = believe(session, MAP.version, ["a"], sizes=(2,)).counts
        lasting = believe(session, MAP.version, ["a"], sizes=(2,), half_life=float("inf")).counts

    # 30 % of the evidence at most: 30 of 100 pieces, which age the 70 by 2 ** -(30 / 231).
    assert lasting.labels[0, 0] == pytest.approx(100.0)
    assert found.labels[0, 0] == pytest.approx(70 * 2 ** -(30 / 231) / 0.7)


def test_an_llm_that_got_worse_is_told_of_once(engine: Engine) -> None:
    """Right, then wrong: an alarm, a journal entry, old counts that weigh a sixteenth, probes wanted."""
    learner = make_learner(engine)
    learner.handle([feedback(f"f-{n}", score=float(n % 10 > 0)) for n in range(500)])
    refit(engine, reason="start")
    for batch in range(3):
        learner.handle([feedback(f"w-{batch}-{n}", score=0.0) for n in range(20)])
    with transaction(engine) as session:
        alarms = list(Journal(session).read(kinds=("drift",)))
        kept = Watches(session).list()["a"]
        counts = CellCounts(session).by_source(MAP.version, ["a"], n_cells=2, epochs={"a": kept.epoch})

    assert [(one.subject, one.body["change"]) for one in alarms] == [("a", "worse")]
    assert kept.watch.wants_probes
    assert kept.epoch == 1
    assert counts["human"].labels[0, 0] < 500 / 16 + 60


def test_rates_rolled_back_are_held_until_they_are_released(engine: Engine) -> None:
    """A new version with the old bits, that feedback does not move; released, learning is in force again."""
    learner = make_learner(engine)
    learner.handle([feedback(f"f-{n}", score=1.0) for n in range(50)])
    first = refit(engine, reason="first")
    rates = read_matrix(engine)
    learner.handle([feedback(f"g-{n}", score=0.0) for n in range(50)])
    refit(engine, reason="second")
    assert first is not None
    roll_back_rates(engine, first)
    learner.handle([feedback(f"h-{n}", score=0.0) for n in range(5)])

    assert refit(engine, reason="feedback") is None
    assert np.array_equal(read_matrix(engine), rates)
    assert refit(engine, reason="released", release=True) is not None
    assert read_matrix(engine)[0, 0] > 0.5


def test_an_llm_that_joins_while_rates_are_held_is_learned(engine: Engine) -> None:
    """Held are those that the version covers; ``c`` is not among them, and neither is another ``b``."""
    learner = make_learner(engine)
    learner.handle([feedback(f"f-{n}", score=1.0) for n in range(50)])
    first = refit(engine, reason="first")
    learner.handle([feedback(f"g-{n}", score=0.0) for n in range(50)])
    refit(engine, reason="second")
    assert first is not None
    roll_back_rates(engine, first)
    with transaction(engine) as session:
        LLMs(session).register(make_registration("c"))
        LLMs(session).retire("b")
        LLMs(session).register(make_registration("b"))
        renewed = LLMs(session).renewals()["b"]
    assert renewed is not None
    decided = max(1_800_000_000, int(renewed.timestamp()) + 1)
    seen = []
    for batch in range(2):
        assert refit(engine, reason=f"joined {batch}") is not None
        seen.append(read_rates(engine))
        learner.handle(
            [
                feedback(f"{llm}-{batch}-{n}", decision_id=sign(llm, decided_at=decided), score=0.0)
                for llm in "abc"
                for n in range(50)
            ]
        )

    assert seen[0]["a"] == seen[1]["a"]
    assert seen[0]["b"] != seen[1]["b"]
    assert seen[0]["c"] != seen[1]["c"]


def test_an_llm_is_watched_while_rates_are_held(engine: Engine) -> None:
    """It is noticed to get worse, and to return, as if they were not; the rates in force stay."""
    learner = make_learner(engine)
    learner.handle([feedback(f"f-{n}", score=float(n % 10 > 0)) for n in range(500)])
    first = refit(engine, reason="first")
    learner.handle([feedback("g", score=0.0)])
    refit(engine, reason="second")
    assert first is not None
    roll_back_rates(engine, first)
    rates = read_matrix(engine)
    for score in (0.0, 1.0):
        for batch in range(10):
            learner.handle([feedback(f"{score}-{batch}-{n}", score=score) for n in range(30)])
            refit(engine, reason="feedback")
    with transaction(engine) as session:
        changes = [one.body["change"] for one in Journal(session).read(kinds=("drift",))]
        versions = len(ErrorRates(session).history(MAP.version, last=100))

    assert sorted(set(changes)) == ["better", "worse"]
    assert np.array_equal(read_matrix(engine), rates)
    # One for each change beside the first, the second and the held: none for feedback alone.
    assert versions == 3 + len(changes)


def read_matrix(engine: Engine) -> np.ndarray:
    """Give the rates in force."""
    with transaction(engine) as session:
        found = ErrorRates(session).current(MAP.version)
    assert found is not None
    return found.rates


@pytest.mark.parametrize("prompt_id", ["p", "pp", "ppp"])
def test_a_decision_counts_once_however_its_id_is_spelled(engine: Engine, prompt_id: str) -> None:
    """Base64 has padding, two alphabets and bits that mean nothing; the signature covers none of them."""
    token = sign(prompt_id=prompt_id)
    raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_")
    spellings = {token, base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    spellings |= {token[:-1] + last for last in ALPHABET if decodes_to(token[:-1] + last, raw)}
    make_learner(engine).handle(
        [feedback(f"f-{number}", decision_id=one) for number, one in enumerate(sorted(spellings))]
    )

    assert read_counts(engine, "a").labels[0, 0] == 1.0
    assert count_rows(engine) == 1


def decodes_to(token: str, raw: bytes) -> bool:
    """Tell whether a token is another spelling of the same bytes."""
    return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_") == raw


def read_duplicates() -> float:
    """Give the metric of what was left out."""
    (metric,) = DUPLICATES.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))


def test_a_learner_waits_for_the_tables(database_url: str) -> None:
    """Feedback that came before the first migration is not given up: the error is one to wait for."""
    engine = make_engine(database_url)
    try:
        with pytest.raises(WaitableError, match="uniroute db upgrade"):
            make_learner(engine).handle([feedback()])
        migrate.upgrade(database_url)
        with transaction(engine) as session:
            LLMs(session).register(make_registration("a"))
            ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
        make_learner(engine).handle([feedback()])

        assert read_counts(engine, "a").labels[0, 0] == 1.0
    finally:
        engine.dispose()


def test_a_learner_waits_for_its_permission(engine: Engine) -> None:
    """A grant that was lost for a while costs no feedback."""
    user = make_engine(f"{engine.url.render_as_string(hide_password=False)}&options=-c%20role%3Dpg_monitor")
    try:
        with pytest.raises(WaitableError, match="permission denied"):
            make_learner(user).handle([feedback()])
    finally:
        user.dispose()


def test_learners_side_by_side_count_each_piece_once(engine: Engine) -> None:
    """Four learners get the same 200 pieces in different orders, as after rebalances, at the same time."""
    pieces = [feedback(f"f-{number}", decision_id=sign("ab"[number % 2])) for number in range(200)]
    orders = [np.random.default_rng(seed).permutation(200) for seed in range(4)]
    threads = [
        threading.Thread(target=make_learner(engine).handle, args=([pieces[index] for index in order],))
        for order in orders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read_counts(engine, "a", "b").labels[0].tolist() == [100.0, 100.0]
    assert count_rows(engine) == 200


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        (feedback(decision_id=sign()[:-10]), "forged_decision"),
        (feedback(decision_id=sign()[:20]), "malformed_decision"),
        (feedback(decision_id=""), "malformed_decision"),
        (feedback(decision_id="not base64!"), "malformed_decision"),
        (feedback(decision_id="ä"), "malformed_decision"),
        (
            feedback(decision_id=sign(signer=DecisionSigner({0: b"another key 0123"}, current=0))),
            "forged_decision",
        ),
        (
            feedback(decision_id=sign(signer=DecisionSigner({7: b"0123456789abcdef"}, current=7))),
            "malformed_decision",
        ),
        (feedback(decision_id=sign(map_version="0" * 16)), "unknown_map"),
        (feedback(decision_id=sign("nobody")), "unknown_llm"),
        (feedback(score=1.01), "bad_feedback"),
        (feedback(score=-0.01), "bad_feedback"),
        (feedback(score="good"), "invalid_body"),
        (feedback(score=None), "invalid_body"),
        (feedback(""), "bad_feedback"),
        (feedback("f" * 201), "bad_feedback"),
        (feedback("f\0"), "bad_feedback"),
        (feedback(source=""), "bad_feedback"),
        (feedback(timestamp_ms=2**62), "bad_feedback"),
        (feedback(timestamp_ms=-(2**62)), "bad_feedback"),
        (raw_feedback(None), "empty"),
        (raw_feedback(b"{"), "not_json"),
        (raw_feedback(b"\xff"), "not_json"),
        (raw_feedback(b"[]"), "invalid_body"),
        (raw_feedback(b"{}"), "invalid_body"),
        (raw_feedback(b'{"score": NaN}'), "not_json"),
        (raw_feedback(b" " * 20_000), "too_large"),
        (raw_feedback(b"[" * 16_000), "invalid_body"),
    ],
)
def test_what_cannot_be_counted_is_a_dead_letter(engine: Engine, message: Message, error_class: str) -> None:
    """By class, with the original value; its neighbours in the batch are counted."""
    first, bad, last = make_learner(engine).handle([feedback("g-1"), message, feedback("g-2")])

    assert (first, last) == ([], [])
    assert read_class(bad) == error_class
    assert bad[0].value == message.value
    assert read_counts(engine, "a").labels[0, 0] == 2.0


def test_a_truncated_token_is_refused_wherever_it_is_cut(engine: Engine) -> None:
    """Each of its prefixes is a dead letter, and nothing is counted."""
    token = sign()
    batch = [feedback(f"f-{cut}", decision_id=token[:cut]) for cut in range(len(token) - 1)]

    classes = {read_class(records) for records in make_learner(engine).handle(batch)}

    assert classes == {"forged_decision", "malformed_decision"}
    assert count_rows(engine) == 0


def test_feedback_on_a_retired_llm_still_counts(engine: Engine) -> None:
    """Its decisions were made, and it may come back."""
    with transaction(engine) as session:
        LLMs(session).retire("a")

    assert make_learner(engine).handle([feedback()]) == [[]]
    assert read_counts(engine, "a").labels[0, 0] == 1.0


def test_a_refit_is_seen_by_routers(engine: Engine) -> None:
    """Rates of every active LLM are published at once, and follow the feedback that came."""
    refit(engine, reason="start")
    before = read_state(engine).snapshot
    make_learner(engine).handle(
        [feedback(f"f-{number}", decision_id=sign("a"), score=0.0) for number in range(50)]
        + [feedback(f"g-{number}", decision_id=sign("b"), score=1.0) for number in range(50)]
    )
    version = refit(engine, reason="feedback")
    after = read_state(engine).snapshot

    assert before is not None
    assert after is not None
    assert after.versions.error_rates == str(version) != before.versions.error_rates
    assert after.names == ("a", "b")
    assert after.error_rates[0, 0] > 0.9
    assert after.error_rates[0, 1] < 0.1


def test_a_refit_with_nothing_new_publishes_nothing(engine: Engine) -> None:
    """Versions stand for numbers, not for the passing of time."""
    first = refit(engine, reason="start")

    assert first is not None
    assert refit(engine, reason="feedback") is None
    assert read_state(engine).snapshot is not None


def test_there_is_nothing_to_refit_without_a_map_or_llms(migrated_url: str) -> None:
    """Neither is an error: they come later."""
    engine = make_engine(migrated_url)
    try:
        assert refit(engine, reason="start") is None
        with transaction(engine) as session:
            ClusterMaps(session).activate(ClusterMaps(session).add(MAP, PRIOR))
        assert refit(engine, reason="start") is None
    finally:
        engine.dispose()


def test_another_llm_moves_no_rates_but_its_own(engine: Engine) -> None:
    """Onboarding ``c`` leaves the columns of ``a`` and ``b`` bit-identical, whatever ``c``'s labels say."""
    scores = np.random.default_rng(0).random(40).round(2).tolist()
    make_learner(engine).handle(
        [
            feedback(f"f-{number}", decision_id=sign("ab"[number % 2], cell=number % 3 % 2), score=score)
            for number, score in enumerate(scores)
        ]
    )
    refit(engine, reason="feedback")
    before = read_rates(engine)
    with transaction(engine) as session:
        LLMs(session).register(make_registration("aa"))
        CellCounts(session).add(MAP.version, ["aa"] * 2, [0, 1], [30.0, 1.0], [31.0, 100.0], evidence="label")
    refit(engine, reason="aa joined")
    after = read_rates(engine)

    assert after.keys() == {"a", "aa", "b"}
    assert {name: after[name] for name in before} == before


def read_rates(engine: Engine) -> dict[str, bytes]:
    """Give the published rates of each LLM, bit for bit."""
    with transaction(engine) as session:
        current = ErrorRates(session).current(MAP.version)
    assert current is not None
    return {name: current.rates[:, column].tobytes() for column, name in enumerate(current.llms)}


def test_the_refitter_outlives_postgres(engine: Engine) -> None:
    """While the database is away it tries again at each interval; it ends when it is told to."""
    stop, tries = threading.Event(), []

    def refit_badly(_: Engine, *, reason: str) -> int | None:
        tries.append(reason)
        if len(tries) == 3:
            stop.set()
            return 7
        raise WaitableError("Postgres", "down")

    Refitter(engine=engine, interval_s=0.001, refit=refit_badly).run(stop)

    assert tries == ["feedback"] * 3


def test_the_refitter_outlives_an_error_nobody_foresaw() -> None:
    """A bug in a refit is told by name, and so is its end; the next interval tries again."""
    stop, outcomes = threading.Event(), iter([ZeroDivisionError("secret"), WaitableError("Postgres", "down")])
    problems: list[str | None] = []

    def refit_badly(_: Engine, **__: str) -> int | None:
        error = next(outcomes, None)
        if error is not None:
            raise error
        stop.set()
        return None

    Refitter(
        engine=create_engine("postgresql+psycopg://"),
        interval_s=0.001,
        refit=refit_badly,
        refit_lengths=lambda _: None,
        prune=lambda _: 0,
        on_problem=problems.append,
    ).run(stop)

    assert problems == ["the refit failed: ZeroDivisionError", "Postgres is away: down", None]


def test_the_refitter_prunes_now_and_then() -> None:
    """At its start and every hour since: with a refit every 30 minutes, beside each second one."""
    stop, now, pruned = threading.Event(), [0.0], []

    def refit_on(_: Engine, **__: str) -> int | None:
        now[0] += 1800.0
        if now[0] == 9000.0:
            stop.set()
        return None

    def prune(_: Engine) -> int:
        pruned.append(now[0])
        return 0

    Refitter(
        engine=create_engine("postgresql+psycopg://"),
        interval_s=0.001,
        refit=refit_on,
        refit_lengths=lambda _: None,
        prune=prune,
        clock=lambda: now[0],
    ).run(stop)

    assert pruned == [1800.0, 5400.0, 9000.0]


def test_rates_outlive_the_decisions_made_from_them(engine: Engine) -> None:
    """A decision is kept for 30 days: versions out of force for longer go, and those since stay."""
    with transaction(engine) as session:
        versions = [
            ErrorRates(session).publish(MAP.version, ["a"], np.full((2, 1), day / 100), reason="test")
            for day in (40, 35, 29, 0)
        ]
        for version, days in zip(versions, (40, 35, 29, 0), strict=True):
            session.execute(
                text(
                    "UPDATE error_rate_versions SET created_at = now() - :days * interval '1 day' "
                    "WHERE version = :version"
                ),
                {"days": days, "version": version},
            )
    gone = prune_versions(engine)
    with transaction(engine) as session:
        kept = [version for version in versions if ErrorRates(session).get(version) is not None]

    # Day 40's went out of force 35 days ago; day 35's was in force until 29 days ago.
    assert gone == 1
    assert kept == versions[1:]
