import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, text

from routing.clusters import ClusterMap
from routing.errors import InvalidInputError
from workers.storage.engine import transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.errors import RefusedError
from workers.storage.routing_state import RoutingState

pytestmark = pytest.mark.stack
FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)


def test_rates_come_back_bit_for_bit(stocked: Engine, cluster_map: ClusterMap) -> None:
    """A replay reads exactly the numbers that decided."""
    rates = np.random.default_rng(3).random((4, 2))
    with transaction(stocked) as session:
        version = ErrorRates(session).publish(cluster_map.version, ["b", "a"], rates, reason="test")
    with transaction(stocked) as session:
        found = ErrorRates(session).get(version)

    assert found is not None
    assert found.llms == ("b", "a")
    assert found.rates.tobytes() == rates.tobytes()
    assert found.reason == "test"
    assert not found.rates.flags.writeable


def test_every_version_is_kept_and_the_last_is_in_force(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Publishing takes nothing away."""
    versions = []
    for level in (0.1, 0.2, 0.3):
        with transaction(stocked) as session:
            rates = np.full((4, 1), level)
            versions.append(ErrorRates(session).publish(cluster_map.version, ["a"], rates, reason=f"{level}"))
    with transaction(stocked) as session:
        kept = [ErrorRates(session).get(version) for version in versions]
        current = ErrorRates(session).current(cluster_map.version)

    assert [found.reason for found in kept if found] == ["0.1", "0.2", "0.3"]
    assert versions == sorted(versions)
    assert current is not None
    assert current.version == versions[-1]


def test_pruning_keeps_what_was_in_force_since(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Of versions of days 1, 2, 3 and 4, day 3.5 needs the third, in force then, and the fourth."""
    versions = publish_daily(stocked, cluster_map, days=4)
    with transaction(stocked) as session:
        gone = ErrorRates(session).prune(cluster_map.version, keep_since=FIRST_DAY + timedelta(days=2.5))
    with transaction(stocked) as session:
        kept = [version for version in versions if ErrorRates(session).get(version) is not None]

    assert gone == 2
    assert kept == versions[2:]


def test_pruning_never_takes_what_is_in_force(stocked: Engine, cluster_map: ClusterMap) -> None:
    """However old it is; and no other map's versions."""
    versions = publish_daily(stocked, cluster_map, days=3)
    with transaction(stocked) as session:
        elsewhere = ErrorRates(session).prune("0" * 16, keep_since=FIRST_DAY + timedelta(days=999))
        gone = ErrorRates(session).prune(cluster_map.version, keep_since=FIRST_DAY + timedelta(days=999))
        current = ErrorRates(session).current(cluster_map.version)

    assert (elsewhere, gone) == (0, 2)
    assert current is not None
    assert current.version == versions[-1]


def test_pruning_never_takes_what_is_held(stocked: Engine, cluster_map: ClusterMap) -> None:
    """The version whose rates are in force says which LLMs they are held of."""
    versions = publish_daily(stocked, cluster_map, days=3)
    with transaction(stocked) as session:
        rates = np.zeros((4, 1))
        last = ErrorRates(session).publish(cluster_map.version, ["a"], rates, reason="test", held=versions[0])
        ErrorRates(session).prune(cluster_map.version, keep_since=datetime.now(UTC) + timedelta(days=999))
        kept = [one.version for one in ErrorRates(session).history(cluster_map.version, last=9)]

    assert kept == [last, versions[0]]


def test_pruning_what_is_young_takes_nothing(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Before the first version, and at its very moment, nothing was out of force."""
    publish_daily(stocked, cluster_map, days=2)
    with transaction(stocked) as session:
        gone = [
            ErrorRates(session).prune(cluster_map.version, keep_since=FIRST_DAY + timedelta(days=days))
            for days in (-1, 0, 1)
        ]

    assert gone == [0, 0, 0]


def publish_daily(engine: Engine, cluster_map: ClusterMap, *, days: int) -> list[int]:
    """Publish a version on each of some days, and give their numbers."""
    versions = []
    with transaction(engine) as session:
        for day in range(days):
            rates = np.full((4, 1), day / 10)
            versions.append(ErrorRates(session).publish(cluster_map.version, ["a"], rates, reason="test"))
            session.execute(
                text("UPDATE error_rate_versions SET created_at = :at WHERE version = :version"),
                {"at": FIRST_DAY + timedelta(days=day), "version": versions[-1]},
            )
    return versions


def test_a_map_without_rates_has_none(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Before the first publication there is nothing, rather than zeros."""
    with transaction(stocked) as session:
        assert ErrorRates(session).current(cluster_map.version) is None
        assert ErrorRates(session).get(1) is None


@pytest.mark.parametrize(
    ("rates", "llms"),
    [
        (np.full((4, 2), 0.5), ["a"]),
        (np.full(4, 0.5), ["a"]),
        (np.full((4, 1), 1.5), ["a"]),
        (np.full((4, 1), np.nan), ["a"]),
        (np.full((4, 2), 0.5), ["a", "a"]),
    ],
)
def test_impossible_rates_are_not_published(
    stocked: Engine,
    cluster_map: ClusterMap,
    rates: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    llms: list[str],
) -> None:
    """One column per LLM, each LLM once, every rate a probability."""
    with pytest.raises(InvalidInputError), transaction(stocked) as session:
        ErrorRates(session).publish(cluster_map.version, llms, rates, reason="test")


def test_rates_of_an_unknown_map_are_refused(engine: Engine) -> None:
    """Rates mean nothing without the map whose cells they are of."""
    with pytest.raises(RefusedError, match="foreign key"), transaction(engine) as session:
        ErrorRates(session).publish("0" * 16, ["a"], np.full((4, 1), 0.5), reason="test")


def test_versions_rise_in_the_order_of_commits(stocked: Engine, cluster_map: ClusterMap) -> None:
    """A publisher waits for one that is at work, so the highest version is always the last one committed."""
    waiting = threading.Event()
    order: list[int] = []

    def publish_second() -> None:
        with transaction(stocked) as session:
            session.connection()
            waiting.set()
            order.append(ErrorRates(session).publish(cluster_map.version, ["a"], np.ones((4, 1)), reason="2"))

    thread = threading.Thread(target=publish_second)
    with transaction(stocked) as session:
        first = ErrorRates(session).publish(cluster_map.version, ["a"], np.zeros((4, 1)), reason="1")
        thread.start()
        waiting.wait(timeout=10)
        still_waiting = list(order)
    thread.join()
    with transaction(stocked) as session:
        current = ErrorRates(session).current(cluster_map.version)

    assert still_waiting == []
    assert order[0] > first
    assert current is not None
    assert current.reason == "2"


def test_publishing_moves_the_version(stocked: Engine, cluster_map: ClusterMap) -> None:
    """Routers look again after a publication."""
    with transaction(stocked) as session:
        before = RoutingState(session).version()
        ErrorRates(session).publish(cluster_map.version, ["a"], np.zeros((4, 1)), reason="test")

        assert RoutingState(session).version() == before + 1
