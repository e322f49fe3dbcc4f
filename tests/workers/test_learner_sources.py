"""What sources of feedback may say, and what is left of it when one is excluded, on the real Postgres."""

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
import pytest
from learner_bench import (
    _SERIAL,
    MAP,
    NOW,
    count_rows,
    feedback,
    make_learner,
    read_class,
    read_counts,
    read_matrix,
    sign,
)
from sqlalchemy import Engine

from workers.learner import (
    exclude_source,
    include_source,
    refit,
)
from workers.messages import Message, Record
from workers.storage.cell_counts import CellCounts
from workers.storage.engine import transaction
from workers.storage.journal import Journal
from workers.storage.sources import Sources
from workers.storage.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack


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


def test_corrections_count_towards_a_cap(engine: Engine) -> None:
    """Three an hour: a score and two corrections of it, under its own id or others; they may come again."""
    with transaction(engine) as session:
        Sources(session).declare("judge:j", kind="judge", per_hour=3)
    now = int(datetime.now(UTC).timestamp())
    learner, token = make_learner(engine, clock=lambda: float(now)), sign(decided_at=now)

    def say(feedback_id: str, score: float, second: int, *, correction: bool = True) -> Message:
        return feedback(
            feedback_id,
            decision_id=token,
            score=score,
            source="judge:j",
            correction=correction,
            timestamp_ms=1000 * (now + second),
        )

    said = [say("f", 1.0, 0, correction=False), say("f", 0.5, 1), say("g", 0.0, 2)]
    taken = [learner.handle([one]) for one in said]
    [more] = learner.handle([say("h", 1.0, 3)])
    again = learner.handle(said)

    assert taken == [[[]]] * 3
    assert read_class(more) == "too_much_feedback"
    assert again == [[]] * 3
    assert read_counts(engine, "a").errors[0, 0] == 1.0


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
