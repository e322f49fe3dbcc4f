import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, event, text

from routing.clusters import ClusterMap
from routing.errors import InvalidInputError
from routing.llms import Price
from workers.local.postgres import Postgres
from workers.storage import migrate
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.llms import LLMs, Registration
from workers.storage.policies import Policies
from workers.storage.prices import Prices
from workers.storage.routing_state import RoutingState
from workers.storage.snapshots import PublishedState, SnapshotSource, load_snapshot, load_state

pytestmark = pytest.mark.stack
SOON = 20.0


def publish(
    engine: Engine, cluster_map: ClusterMap, level: float, llms: tuple[str, ...] = ("a", "b")
) -> None:
    """Publish equal error rates, and a policy that names the same level."""
    with transaction(engine) as session:
        rates = np.full((4, len(llms)), level)
        ErrorRates(session).publish(cluster_map.version, llms, rates, reason="test")
        Policies(session).put("default", {"level": level})


def test_a_snapshot_holds_what_was_published(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Map, LLMs in order of name, their columns of rates, lengths, and the versions of each."""
    rates = np.array([[0.25, 0.5]] * 4)  # columns b, a
    with transaction(stocked) as session:
        rates_version = ErrorRates(session).publish(cluster_map.version, ["b", "a"], rates, reason="test")
        prices_version = Prices(session).set("a", Price(input_usd_per_mtok=9.0, output_usd_per_mtok=9.0))
    with transaction(stocked) as session:
        snapshot = load_snapshot(session)

    assert snapshot is not None
    assert snapshot.cluster_map.version == cluster_map.version
    assert snapshot.names == ("a", "b")
    assert snapshot.error_rates.tolist() == [[0.5, 0.25]] * 4
    assert snapshot.output_tokens.tolist() == [256.0, 256.0]
    assert snapshot.llms[0].price.input_usd_per_mtok == 9.0
    assert (snapshot.versions.error_rates, snapshot.versions.prices) == (
        str(rates_version),
        str(prices_version),
    )


def test_there_is_no_snapshot_until_rates_are_published(stocked: Engine) -> None:
    """An active map alone decides nothing; the LLMs that wait for rates are named."""
    with transaction(stocked) as session:
        state = load_state(session)

    assert state.snapshot is None
    assert state.unrated == ("a", "b")


def test_only_active_llms_with_rates_take_traffic(
    stocked: Engine, cluster_map: ClusterMap, make_registration: Callable[..., Registration]
) -> None:
    """A retired LLM leaves the snapshot at once; a new one enters with the first rates that cover it."""
    publish(stocked, cluster_map, 0.5)
    with transaction(stocked) as session:
        LLMs(session).retire("a")
        LLMs(session).register(make_registration("c"))
        LLMs(session).register(make_registration("d"), state="shadow")
    with transaction(stocked) as session:
        before = load_state(session)
    publish(stocked, cluster_map, 0.5, llms=("b", "c", "d"))
    with transaction(stocked) as session:
        after = load_state(session)

    assert before.snapshot is not None
    assert after.snapshot is not None
    assert (before.snapshot.names, before.unrated) == (("b",), ("c",))
    assert (after.snapshot.names, after.unrated) == (("b", "c"), ())
    # What was dispatched to a is still answered, so where it is served is still known.
    assert sorted(after.registered) == ["a", "b", "c", "d"]
    assert after.registered["a"].state == "retired"


def test_a_snapshot_is_of_one_moment(stocked: Engine, cluster_map: ClusterMap, migrated_url: str) -> None:
    """A change that commits between any two statements of the read is seen in full or not at all."""
    publish(stocked, cluster_map, 0.0)
    reader = make_engine(migrated_url)
    levels = iter(step / 64 for step in range(1, 64))
    statements = []

    @event.listens_for(reader, "before_cursor_execute")
    def change_between(*arguments: object) -> None:
        statements.append(arguments[2])
        publish(stocked, cluster_map, next(levels))

    with transaction(reader) as session:
        state = load_state(session)
    reader.dispose()

    assert len(statements) >= 5
    assert state.snapshot is not None
    # Whatever moment it was, rates and policy are of the same one: version n goes with level (n - 1) / 64.
    level = state.policies["default"][1]["level"]
    assert state.snapshot.error_rates.tolist() == [[level, level]] * 4
    assert state.policies["default"][0] == round(level * 64) + 1


def test_a_change_is_seen_without_waiting_for_the_poll(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Notifications bring a change at once; with a poll an hour away nothing else could."""
    seen = []
    with SnapshotSource(
        stocked, poll_seconds=3600, on_state=lambda state: seen.append(state.version)
    ) as source:
        assert source.wait_for(lambda found: found.state is not None, timeout_seconds=SOON)
        publish(stocked, cluster_map, 0.5)
        assert source.wait_for(lambda found: found.snapshot is not None, timeout_seconds=SOON)

    assert seen == sorted(set(seen))
    assert source.state is not None
    assert seen[-1] == source.state.version


def test_a_poll_sees_what_no_notification_told(stocked: Engine) -> None:
    """A pooler between us and Postgres may swallow notifications; the poll does not need them."""
    with SnapshotSource(stocked, poll_seconds=0.02) as source:
        assert source.wait_for(lambda found: found.state is not None, timeout_seconds=SOON)
        with transaction(stocked) as session:
            session.execute(text("UPDATE routing_state SET version = 1000"))
        seen = source.wait_for(
            lambda found: found.state is not None and found.state.version == 1000, timeout_seconds=SOON
        )

    assert seen


def test_a_price_set_for_later_comes_into_force_by_itself(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Nothing else changes and nobody is notified: the poll sees that its time has come, and not before."""
    publish(stocked, cluster_map, 0.5)
    price, later = (Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd) for usd in (7.0, 9.0))
    with SnapshotSource(stocked, poll_seconds=0.02) as source:
        with transaction(stocked) as session:
            soon = datetime.now(UTC) + timedelta(seconds=0.5)
            Prices(session).set("b", later, valid_from=soon + timedelta(hours=1))
            version = Prices(session).set("a", price, valid_from=soon)
        assert source.wait_for(
            lambda found: found.snapshot is not None and found.snapshot.llms[0].price == price,
            timeout_seconds=SOON,
        )
        arrived = datetime.now(UTC)
        state = source.state

    assert arrived >= soon
    assert state is not None
    assert state.snapshot is not None
    assert state.snapshot.versions.prices.startswith(f"{version}")
    assert state.registered["a"].price_version == version
    assert state.next_price_at == soon + timedelta(hours=1)


def test_an_unchanged_version_keeps_the_same_snapshot(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Polling swaps nothing while nothing moves: callers may compare snapshots by identity."""
    publish(stocked, cluster_map, 0.5)
    polls = threading.Semaphore(0)

    @event.listens_for(stocked, "before_cursor_execute")
    def count(*_: object) -> None:
        polls.release()

    with SnapshotSource(stocked, poll_seconds=0.01) as source:
        assert source.wait_for(lambda found: found.snapshot is not None, timeout_seconds=SOON)
        first = source.snapshot
        for _ in range(30):
            assert polls.acquire(timeout=SOON)
        last = source.snapshot

    assert first is last


def test_a_state_that_cannot_be_used_keeps_the_last_one(stocked: Engine, cluster_map: ClusterMap) -> None:
    """An LLM that lost its price is a problem, told in one sentence; routing goes on with what was there."""
    publish(stocked, cluster_map, 0.5)
    problems: list[str | None] = []
    with SnapshotSource(stocked, poll_seconds=0.02, on_problem=problems.append) as source:
        assert source.wait_for(lambda found: found.snapshot is not None, timeout_seconds=SOON)
        good = source.snapshot
        with transaction(stocked) as session:
            session.execute(text("DELETE FROM prices WHERE llm = 'b'"))
            RoutingState(session).bump()
        assert source.wait_for(lambda found: found.problem is not None, timeout_seconds=SOON)
        kept = source.snapshot
        with transaction(stocked) as session:
            Prices(session).set("b", Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
        assert source.wait_for(lambda found: found.problem is None, timeout_seconds=SOON)

    assert kept is good
    assert problems == ["LLM 'b' has no price: set it, 0 included, before prompts are routed", None]
    assert source.snapshot is not good


def test_a_state_its_receiver_refuses_is_offered_again(stocked: Engine) -> None:
    """A router whose embedder is not there yet says so, and takes the same state over once it can."""
    problems: list[str | None] = []
    offers: list[int] = []

    def refuse_twice(state: PublishedState) -> None:
        offers.append(state.version)
        if len(offers) < 3:
            raise InvalidInputError("embedder", "is not here yet")

    source = SnapshotSource(stocked, poll_seconds=0.02, on_state=refuse_twice, on_problem=problems.append)
    with source:
        assert source.wait_for(
            lambda found: found.state is not None and found.problem is None, timeout_seconds=SOON
        )

    assert len(set(offers)) == 1
    assert problems == ["embedder: is not here yet", None]


def test_a_source_outlives_an_error_nobody_foresaw(stocked: Engine) -> None:
    """A bug in what takes the state over is told, and the state is offered again at the next poll."""
    problems: list[str | None] = []
    offers: list[int] = []

    def fail_twice(state: PublishedState) -> None:
        offers.append(state.version)
        if len(offers) < 3:
            raise ZeroDivisionError("secret")

    source = SnapshotSource(stocked, poll_seconds=0.02, on_state=fail_twice, on_problem=problems.append)
    with source:
        well = source.wait_for(
            lambda found: found.state is not None and found.problem is None, timeout_seconds=SOON
        )

    assert well
    assert problems == ["the watcher of routing state failed: ZeroDivisionError", None]


def test_a_map_is_parsed_once_while_it_stays_in_force(stocked: Engine, cluster_map: ClusterMap) -> None:
    """New rates come with the very map object that was there; another map comes with its own."""
    publish(stocked, cluster_map, 0.25)
    with SnapshotSource(stocked, poll_seconds=0.02) as source:
        assert source.wait_for(lambda found: rated(found) == 0.25, timeout_seconds=SOON)
        first = source.snapshot
        publish(stocked, cluster_map, 0.5)
        assert source.wait_for(lambda found: rated(found) == 0.5, timeout_seconds=SOON)
        second = source.snapshot
        with transaction(stocked) as session:
            fitted = ClusterMaps(session).active()
            assert fitted is not None
            other = replace(cluster_map, temperature=1.0)
            ClusterMaps(session).activate(ClusterMaps(session).add(other, fitted.prior))
        publish(stocked, other, 0.75)
        assert source.wait_for(lambda found: rated(found) == 0.75, timeout_seconds=SOON)
        third = source.snapshot

    assert first is not None
    assert second is not None
    assert third is not None
    assert second.cluster_map is first.cluster_map
    assert third.cluster_map == other != cluster_map


def rated(source: SnapshotSource) -> float | None:
    """Give the error rate that every LLM has in every cell."""
    return None if source.snapshot is None else float(source.snapshot.error_rates[0, 0])


def test_stopping_does_not_wait_for_a_stuck_thread(stocked: Engine) -> None:
    """A worker ends although its source hangs; once that comes to itself, it ends as well."""
    stuck, release = threading.Event(), threading.Event()

    def hang(_: PublishedState) -> None:
        stuck.set()
        release.wait()

    source = SnapshotSource(stocked, on_state=hang)
    source.start()
    assert stuck.wait(SOON)
    source.stop(timeout_seconds=0.01)
    lingering = {thread.name for thread in threading.enumerate()}
    release.set()
    source.stop(timeout_seconds=SOON)

    assert "uniroute-snapshots" in lingering
    assert "uniroute-snapshots" not in {thread.name for thread in threading.enumerate()}


def test_stopping_does_not_wait_for_the_poll(stocked: Engine) -> None:
    """A worker that is told to go does not linger, and stopping twice is as good as once."""
    source = SnapshotSource(stocked, poll_seconds=3600)
    source.start()
    assert source.wait_for(lambda found: found.state is not None, timeout_seconds=SOON)
    source.stop()
    source.stop()

    assert "uniroute-snapshots" not in {thread.name for thread in threading.enumerate()}


def test_a_source_that_never_started_can_be_stopped(engine: Engine) -> None:
    """A worker that fails before its source starts can still clean up."""
    SnapshotSource(engine).stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    """A Postgres of the test's own, to take away and bring back."""
    made = Postgres(tmp_path / "pg", outlive=False)
    made.start()
    yield made
    made.stop()


def test_routing_goes_on_while_postgres_is_away(server: Postgres) -> None:
    """The last state stays, the problem says Postgres is away, and once it is back changes are seen again."""
    url = server.create_database("uniroute")
    migrate.upgrade(url)
    engine = make_engine(url)
    problems: list[str | None] = []
    try:
        with SnapshotSource(engine, poll_seconds=0.05, on_problem=problems.append) as source:
            assert source.wait_for(lambda found: found.state is not None, timeout_seconds=SOON)
            server.stop()
            assert source.wait_for(lambda found: found.problem is not None, timeout_seconds=SOON)
            kept = source.state
            server.start()
            assert source.wait_for(lambda found: found.problem is None, timeout_seconds=SOON)
            with transaction(engine) as session:
                Policies(session).put("default", {"level": 1})
            assert source.wait_for(
                lambda found: found.state is not None and found.state.version == 1, timeout_seconds=SOON
            )
    finally:
        engine.dispose()

    assert kept is not None
    assert kept.version == 0
    assert str(problems[0]).startswith("Postgres is away: ")
    assert problems[-1] is None


def test_a_source_starts_before_postgres_does(server: Postgres) -> None:
    """A router may come up first: it has no state, says why, and gets one when Postgres is there."""
    url = server.create_database("uniroute")
    migrate.upgrade(url)
    server.stop()
    engine = make_engine(url)
    try:
        with SnapshotSource(engine, poll_seconds=0.05) as source:
            assert source.wait_for(lambda found: found.problem is not None, timeout_seconds=SOON)
            nothing = source.state
            server.start()
            arrived = source.wait_for(lambda found: found.state is not None, timeout_seconds=SOON)
    finally:
        engine.dispose()

    assert nothing is None
    assert arrived
