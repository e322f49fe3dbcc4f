"""What becomes of counts: rates that forget, that are held, that are published, on the real Postgres."""

import threading

import numpy as np
import pytest
from learner_bench import (
    MAP,
    PRIOR,
    feedback,
    make_learner,
    make_registration,
    read_matrix,
    read_rates,
    read_state,
    sign,
)
from sqlalchemy import Engine, create_engine, text

from workers.errors import WaitableError
from workers.learner import (
    Refitter,
    prune_versions,
    refit,
    roll_back_rates,
)
from workers.learner.believing import believe
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.journal import Journal
from workers.storage.learning_rules import LearningRules
from workers.storage.llms import LLMs
from workers.storage.watches import Watches

pytestmark = pytest.mark.stack


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
