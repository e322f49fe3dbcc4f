import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from routing.errors import InvalidInputError
from workers.storage.engine import transaction
from workers.storage.errors import RefusedError
from workers.storage.feedback import Feedback, FeedbackEntry

NOON = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
MAP = "0123456789abcdef"


def entry(feedback_id: str, **values: Any) -> FeedbackEntry:
    """Give feedback of which a test names only what it is about."""
    defaults: dict[str, Any] = {
        "decision_id": f"token of {feedback_id}",
        "prompt_id": "p1",
        "llm": "a",
        "map_version": MAP,
        "cells": (1, 7, 23),
        "score": 0.5,
        "event_time": NOON,
    }
    return FeedbackEntry(feedback_id=feedback_id, **{**defaults, **values})


@pytest.mark.stack
def test_feedback_comes_back_as_it_was_recorded(engine: Engine) -> None:
    """Every field survives, for a refold must see what the first fold saw."""
    given = [
        entry("f1", score=0.1, weight=0.3, source="judge", tenant='team, {with} "odd" \\ name'),
        entry("f2", decision_id=None, cells=(), prompt_id="naïve ☂"),
        entry("f3", disposition="excluded"),
        entry("f4", map_version="f" * 16),
    ]
    with transaction(engine) as session:
        Feedback(session).record(given)
    with transaction(engine) as session:
        found = list(Feedback(session).counted(MAP))

    # f3 does not count, f4 is of another map.
    assert found == given[:2]


@pytest.mark.stack
def test_feedback_sent_again_is_kept_once(engine: Engine) -> None:
    """Only what is new comes back from recording, so only that is counted."""
    with transaction(engine) as session:
        first = Feedback(session).record([entry("f1"), entry("f2")])
    with transaction(engine) as session:
        second = Feedback(session).record([entry("f2", score=1.0), entry("f3")])
        scores = [found.score for found in Feedback(session).counted(MAP)]

    assert set(first) == {"f1", "f2"}
    assert set(second) == {"f3"}
    assert scores == [0.5, 0.5, 0.5]


@pytest.mark.stack
def test_an_id_that_stands_twice_in_a_batch_counts_once(engine: Engine) -> None:
    """The first of them is kept and returned; counting the values of the result counts it once."""
    batch = [entry("f1", score=0.25), entry("f1", score=1.0), entry("f0")]
    with transaction(engine) as session:
        kept = Feedback(session).record(batch)

    assert {feedback_id: found.score for feedback_id, found in kept.items()} == {"f0": 0.5, "f1": 0.25}


@pytest.mark.stack
def test_a_decision_counts_once_per_source(engine: Engine) -> None:
    """Fresh feedback ids add nothing to a decision: not in one batch, and not in the next."""
    batch = [
        entry("f3", decision_id="d", score=0.25),
        entry("f1", decision_id="d", score=1.0),
        entry("f2", decision_id="d", source="judge"),
        entry("f4", decision_id=None),
        entry("f5", decision_id=None),
    ]
    with transaction(engine) as session:
        first = Feedback(session).record(batch)
    with transaction(engine) as session:
        second = Feedback(session).record([entry("f6", decision_id="d"), entry("f7", decision_id="e")])

    # Of the two of one source the first that was offered is kept; what quotes no decision is told by its id.
    assert {name: kept.score for name, kept in first.items()} == {"f3": 0.25, "f2": 0.5, "f4": 0.5, "f5": 0.5}
    assert set(second) == {"f7"}


@pytest.mark.stack
def test_an_id_used_for_two_decisions_counts_once(engine: Engine) -> None:
    """And what is returned is the piece that is kept."""
    with transaction(engine) as session:
        kept = Feedback(session).record(
            [entry("f1", decision_id="e", score=0.75), entry("f1", decision_id="d", score=0.25)]
        )
        rows = list(Feedback(session).counted(MAP))

    assert list(kept.values()) == rows
    assert len(rows) == 1


@pytest.mark.stack
@pytest.mark.parametrize("first_commits", [True, False])
def test_two_transactions_with_the_same_decisions_keep_each_once(
    engine: Engine, *, first_commits: bool
) -> None:
    """Under other feedback ids, whose order is the other way round, the second waits for the first."""
    kept: list[set[str]] = []

    def record_second() -> None:
        with transaction(engine) as session:
            again = [entry("f3", decision_id="e"), entry("f4", decision_id="d")]
            kept.append(set(Feedback(session).record(again)))

    thread = threading.Thread(target=record_second)
    with transaction(engine) as session:
        Feedback(session).record([entry("f1", decision_id="d"), entry("f2", decision_id="e")])
        thread.start()
        wait_for_a_blocked_session(engine)
        if not first_commits:
            session.rollback()
    thread.join()

    assert kept == [set() if first_commits else {"f3", "f4"}]


@pytest.mark.stack
def test_learners_flooded_with_fresh_ids_keep_each_decision_once(engine: Engine) -> None:
    """Three learners get 120 decisions in different orders, each under ids of its own; none deadlocks."""
    decisions = [f"d{number:03}" for number in range(120)]
    orders = [decisions, decisions[::-1], decisions[60:] + decisions[:60]]
    kept: list[str] = []
    start = threading.Barrier(len(orders))

    def learn(learner: int) -> None:
        start.wait()
        for first in range(0, len(decisions), 40):
            names = orders[learner][first : first + 40]
            batch = [
                entry(f"f{40 - row}-{first}-{learner}", decision_id=name) for row, name in enumerate(names)
            ]
            with transaction(engine) as session:
                found = Feedback(session).record(batch)
            kept.extend(piece.decision_id or "" for piece in found.values())

    threads = [threading.Thread(target=learn, args=(learner,)) for learner in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(kept) == decisions


@pytest.mark.stack
def test_the_longest_decision_id_and_source_fit_their_index(engine: Engine) -> None:
    """2500 bytes that do not compress are kept; one more is refused before it reaches a batch."""
    noise = "".join(chr(33 + int(digit) % 90) for digit in np.random.default_rng(0).integers(0, 90, 2300))
    with transaction(engine) as session:
        kept = Feedback(session).record([entry("f1", decision_id=noise, source="s" * 200)])

    assert set(kept) == {"f1"}
    with pytest.raises(InvalidInputError, match="2500 bytes"):
        entry("f2", decision_id=noise, source="s" * 201)


@pytest.mark.stack
def test_replaced_feedback_stays_and_counts_no_more(engine: Engine) -> None:
    """An LLM that takes another's name inherits none of its feedback, and the others keep theirs."""
    with transaction(engine) as session:
        Feedback(session).record([entry("f1"), entry("f2", llm="b"), entry("f3", disposition="excluded")])
        Feedback(session).replace("a")
    with transaction(engine) as session:
        counted = [found.feedback_id for found in Feedback(session).counted(MAP)]
        rows = session.execute(text("SELECT feedback_id, disposition FROM feedback ORDER BY 1")).all()

    assert counted == ["f2"]
    assert [tuple(row) for row in rows] == [("f1", "replaced"), ("f2", "counted"), ("f3", "excluded")]


@pytest.mark.stack
def test_recording_nothing_is_nothing(engine: Engine) -> None:
    """An empty batch is no statement at all."""
    with transaction(engine) as session:
        assert Feedback(session).record([]) == {}


@pytest.mark.stack
@pytest.mark.parametrize("first_commits", [True, False])
def test_two_transactions_with_the_same_feedback_keep_it_once(engine: Engine, *, first_commits: bool) -> None:
    """The second waits for the first: it gets nothing if that commits, everything if it rolls back."""
    kept: list[set[str]] = []

    def record_second() -> None:
        with transaction(engine) as session:
            kept.append(set(Feedback(session).record([entry("f2"), entry("f1")])))

    thread = threading.Thread(target=record_second)
    with transaction(engine) as session:
        Feedback(session).record([entry("f1"), entry("f2")])
        thread.start()
        wait_for_a_blocked_session(engine)
        if not first_commits:
            session.rollback()
    thread.join()
    with transaction(engine) as session:
        rows = len(list(Feedback(session).counted(MAP)))

    assert kept == [set() if first_commits else {"f1", "f2"}]
    assert rows == 2


def wait_for_a_blocked_session(engine: Engine) -> None:
    """Return when some session of the database waits for another's lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    blocked = 0
    while not blocked:
        with transaction(engine) as session:  # a new one each time: it sees the sessions of its beginning
            blocked = session.scalar(query) or 0


@pytest.mark.stack
def test_learners_with_overlapping_batches_never_deadlock(engine: Engine) -> None:
    """Each id is kept by exactly one of three learners that send the same ids in different orders."""
    ids = [f"f{number:03}" for number in range(200)]
    orders = [ids, ids[::-1], ids[100:] + ids[:100]]
    kept: list[str] = []
    start = threading.Barrier(len(orders))

    def learn(order: list[str]) -> None:
        start.wait()
        for first in range(0, len(order), 40):
            with transaction(engine) as session:
                kept.extend(Feedback(session).record([entry(name) for name in order[first : first + 40]]))

    threads = [threading.Thread(target=learn, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(kept) == ids


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("feedback_id", ""),
        ("feedback_id", "x" * 201),
        ("feedback_id", "nul\0"),
        ("prompt_id", "lone \ud800"),
        ("tenant", "nul\0"),
        ("score", 1.5),
        ("score", -0.1),
        ("score", float("nan")),
        ("weight", -1.0),
        ("weight", float("inf")),
        ("event_time", NOON.replace(tzinfo=None)),
        ("disposition", "lost"),
    ],
)
def test_what_postgres_would_refuse_is_refused_alone(field: str, value: object) -> None:
    """A bad piece of feedback is named before it reaches a batch, so it never costs its neighbours."""
    values = {field: value} if field != "feedback_id" else {}
    with pytest.raises(InvalidInputError, match=f"^{field}: "):
        entry(str(value) if field == "feedback_id" else "f1", **values)


@pytest.mark.stack
def test_the_table_takes_no_impossible_score(engine: Engine) -> None:
    """Whoever writes past the repository still cannot store a score that is no probability."""
    with transaction(engine) as session:
        Feedback(session).record([entry("f1")])

    with pytest.raises(RefusedError) as caught, transaction(engine) as session:
        session.execute(text("UPDATE feedback SET score = 'NaN'"))
    assert caught.value.constraint == "ck_feedback_score"
