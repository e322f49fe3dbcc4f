"""Cluster maps: immutable, one of them active."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from routing.clusters import ClusterMap
from routing.learning import PromptMix
from routing.quality.pool_prior import PoolPrior
from workers.errors import UsageError
from workers.storage.prompt_mixes import read_mix, write_mix
from workers.storage.routing_state import RoutingState
from workers.storage.tables import ClusterMapRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMap:
    """A map and the prior that was learned on it, which is part of the map's version."""

    cluster_map: ClusterMap
    #: Where no known LLM's errors were at hand, one that leaves rates to each LLM's own counts.
    prior: PoolPrior


class ClusterMaps:
    """Maps by version."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, cluster_map: ClusterMap, prior: PoolPrior, *, mix: PromptMix | None = None) -> str:
        """Keep a map with its prior and the prompts it was fitted on, inactive; give its version.

        Adding the same again changes nothing. ``UsageError`` for a kept map with another prior: a prior is
        frozen with its map, or onboarding an LLM would move the numbers of the others.
        """
        version, frozen = cluster_map.version, prior.to_bytes()
        row = self._session.get(ClusterMapRow, version)
        if row is not None:
            if row.prior != frozen:
                raise UsageError(f"cluster map {version} is kept with another prior: fit a new map instead")
            return version
        row = ClusterMapRow(
            version=version,
            map=cluster_map.to_bytes(),
            prior=frozen,
            fingerprint=cluster_map.fingerprint.as_dict(),
            mix=None if mix is None else write_mix(mix),
        )
        self._session.add(row)
        self._session.flush()
        return version

    def activate(self, version: str) -> None:
        """Make a map the one that routers use, in place of any other; ``UsageError`` for an unknown one."""
        RoutingState(self._session).bump()
        if self._session.get(ClusterMapRow, version) is None:
            raise UsageError(f"there is no cluster map {version}: `uniroute map list` shows those there are")
        for chosen, active in (
            (ClusterMapRow.version != version, False),
            (ClusterMapRow.version == version, True),
        ):
            self._session.execute(
                update(ClusterMapRow)
                .where(chosen, ClusterMapRow.active.is_not(active))
                .values(active=active)
                .execution_options(synchronize_session="fetch")
            )

    def active(self) -> FittedMap | None:
        """Give the map that routers use; ``None`` before the first is activated."""
        row = self._session.scalars(select(ClusterMapRow).where(ClusterMapRow.active)).first()
        return None if row is None else _read(row)

    def require_active(self) -> FittedMap:
        """Give the map that routers use; ``UsageError`` before the first is activated."""
        found = self.active()
        if found is None:
            raise UsageError("no cluster map is in force: run `uniroute map fit PROMPTS` first")
        return found

    def active_version(self) -> str | None:
        """Give the version of the map that routers use, without the map."""
        return self._session.scalar(select(ClusterMapRow.version).where(ClusterMapRow.active))

    def get(self, version: str) -> FittedMap | None:
        """Give the map of a version; ``None`` where there is none."""
        row = self._session.get(ClusterMapRow, version)
        return None if row is None else _read(row)

    def mix(self, version: str) -> PromptMix | None:
        """Give what a map was fitted on; ``None`` where that was not kept."""
        found = self._session.scalar(select(ClusterMapRow.mix).where(ClusterMapRow.version == version))
        return None if found is None else read_mix(found)

    def list(self) -> list[str]:
        """Give the versions of all maps, oldest first."""
        return list(self._session.scalars(select(ClusterMapRow.version).order_by(ClusterMapRow.created_at)))


def _read(row: ClusterMapRow) -> FittedMap:
    return FittedMap(cluster_map=ClusterMap.from_bytes(row.map), prior=PoolPrior.from_bytes(row.prior))
