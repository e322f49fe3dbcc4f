"""The version that tells routers to look again."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from workers.storage.errors import NotMigratedError
from workers.storage.tables import RoutingStateRow

#: Postgres notifies this channel, with the new version, when a change commits.
CHANNEL = "uniroute_state"


class RoutingState:
    """Reads and moves the one version that covers LLMs, prices, maps, error rates and policies."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def version(self) -> int:
        """Give the current version; equal versions mean an equal snapshot while no price's time comes."""
        found: int | None = self._session.scalar(select(RoutingStateRow.version))
        if found is None:
            raise NotMigratedError("routing_state has no row")
        return found

    def lock(self) -> int:
        """Give the current version, which nobody else moves until this transaction ends."""
        found: int | None = self._session.scalar(select(RoutingStateRow.version).with_for_update())
        if found is None:
            raise NotMigratedError("routing_state has no row")
        return found

    def bump(self) -> int:
        """Move the version by one and notify routers when the transaction commits; give the new version.

        The row stays locked until then, so changes that routers see commit one after the other, in the order
        of their versions.
        """
        moved: int | None = self._session.scalar(
            update(RoutingStateRow)
            .values(version=RoutingStateRow.version + 1)
            .returning(RoutingStateRow.version)
            .execution_options(synchronize_session=False)
        )
        if moved is None:
            raise NotMigratedError("routing_state has no row")
        self._session.execute(select(func.pg_notify(CHANNEL, str(moved))))
        return moved
