import numpy as np
import pytest
from sqlalchemy import Engine, text

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint
from routing.errors import InvalidInputError
from routing.quality.pool_prior import PoolPrior
from workers.errors import UsageError
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.errors import RefusedError
from workers.storage.routing_state import RoutingState

pytestmark = pytest.mark.stack


def map_of(checksum: str) -> ClusterMap:
    """Give a map whose version depends on ``checksum``."""
    fingerprint = Fingerprint(name="axes", dimension=4, precision="f32", max_length=8, checksum=checksum)
    return ClusterMap(
        centroids=np.eye(4, dtype=np.float32), sizes=(1, 3), temperature=2.0, fingerprint=fingerprint
    )


def prior_of(level: float) -> PoolPrior:
    """Give a prior of three LLMs."""
    return PoolPrior(
        means=np.full(4, level),
        covariance=np.eye(4) * 0.1,
        known_llms=3,
        level=level,
        level_variance=0.02,
        sizes=(1, 3),
    )


def test_a_map_comes_back_with_its_prior_bit_for_bit(engine: Engine) -> None:
    """What a router loads is what was fitted."""
    with transaction(engine) as session:
        version = ClusterMaps(session).add(map_of("a"), prior_of(1 / 3))
    with transaction(engine) as session:
        found = ClusterMaps(session).get(version)

    assert found is not None
    assert found.cluster_map == map_of("a")
    assert found.prior.to_bytes() == prior_of(1 / 3).to_bytes()


def test_no_map_is_active_until_one_is_activated(engine: Engine) -> None:
    """Adding is not using."""
    with transaction(engine) as session:
        ClusterMaps(session).add(map_of("a"), prior_of(0.25))
        active = ClusterMaps(session).active()
        unknown = ClusterMaps(session).get("0" * 16)

    assert active is None
    assert unknown is None


def test_activating_a_map_replaces_the_active_one(engine: Engine) -> None:
    """One map is active; going back is activating the older again."""
    with transaction(engine) as session:
        versions = [ClusterMaps(session).add(map_of(checksum), prior_of(0.25)) for checksum in "ab"]
    seen = []
    for version in (versions[0], versions[1], versions[0], versions[0]):
        with transaction(engine) as session:
            ClusterMaps(session).activate(version)
        with transaction(engine) as session:
            active = ClusterMaps(session).active()
            assert active is not None
            seen.append(active.cluster_map.version)

    assert seen == [versions[0], versions[1], versions[0], versions[0]]


def test_the_table_takes_one_active_map(engine: Engine) -> None:
    """Whoever writes past the repository still cannot make two maps active."""
    with transaction(engine) as session:
        for checksum in "ab":
            ClusterMaps(session).add(map_of(checksum), prior_of(0.25))

    with pytest.raises(RefusedError) as caught, transaction(engine) as session:
        session.execute(text("UPDATE cluster_maps SET active = true"))
    assert caught.value.constraint == "uq_cluster_maps_active"


def test_adding_a_map_again_changes_nothing(engine: Engine) -> None:
    """A fit that is repeated finds its map there, still active."""
    with transaction(engine) as session:
        version = ClusterMaps(session).add(map_of("a"), prior_of(0.25))
        ClusterMaps(session).activate(version)
    with transaction(engine) as session:
        again = ClusterMaps(session).add(map_of("a"), prior_of(0.25))
        active = ClusterMaps(session).active()
        versions = ClusterMaps(session).list()

    assert again == version
    assert active is not None
    assert versions == [version]


def test_a_prior_is_frozen_with_its_map(engine: Engine) -> None:
    """Another prior for a kept map is refused: it would move the numbers of every LLM."""
    with transaction(engine) as session:
        ClusterMaps(session).add(map_of("a"), prior_of(0.25))

    with pytest.raises(UsageError, match="another prior"), transaction(engine) as session:
        ClusterMaps(session).add(map_of("a"), prior_of(0.5))


def test_an_unknown_map_is_not_activated(engine: Engine) -> None:
    """A version that is not kept is the person's mistake, and the active map stays."""
    with transaction(engine) as session:
        ClusterMaps(session).activate(ClusterMaps(session).add(map_of("a"), prior_of(0.25)))
    with pytest.raises(UsageError, match="no cluster map ffff"), transaction(engine) as session:
        ClusterMaps(session).activate("ffff")

    with transaction(engine) as session:
        assert ClusterMaps(session).active() is not None


def test_a_damaged_map_is_an_error(engine: Engine) -> None:
    """Bytes that are no longer a map are never routed on."""
    with transaction(engine) as session:
        version = ClusterMaps(session).add(map_of("a"), prior_of(0.25))
        session.execute(text("UPDATE cluster_maps SET map = 'rubbish'"))

    with pytest.raises(InvalidInputError), transaction(engine) as session:
        ClusterMaps(session).get(version)


def test_activating_moves_the_version_and_adding_does_not(engine: Engine) -> None:
    """Routers look again only when what they use changes."""
    with transaction(engine) as session:
        version = ClusterMaps(session).add(map_of("a"), prior_of(0.25))
        before = RoutingState(session).version()
        ClusterMaps(session).activate(version)
        after = RoutingState(session).version()

    assert (before, after) == (0, 1)
