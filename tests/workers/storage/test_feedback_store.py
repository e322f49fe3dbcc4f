import threading
from datetime import UTC, datetime
from typing import Any

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
        "decision_id": "token",
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
    with transaction(engine) as session:
        while not session.scalar(query):
            pass


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
