"""Declarative policies, by name and version."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from workers.storage.routing_state import RoutingState
from workers.storage.tables import PolicyRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """A policy as it was declared."""

    version: int
    body: dict[str, Any]
    created_at: datetime


class Policies:
    """Every version of every policy; the highest version of a name is in force."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, name: str, body: Mapping[str, Any]) -> int:
        """Add a version and give its number, from 1; a body equal to the one in force adds none."""
        if (last := self._last(name)) is not None and last.body == dict(body):
            return last.version
        RoutingState(self._session).bump()
        last = self._last(name)  # whoever bumped before has committed: its version is the last
        if last is not None and last.body == dict(body):
            return last.version
        version = 1 if last is None else last.version + 1
        self._session.add(PolicyRow(name=name, version=version, body=dict(body)))
        self._session.flush()
        return version

    def current(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Give the version and the body in force of every policy, by name."""
        newest = select(PolicyRow.name, func.max(PolicyRow.version)).group_by(PolicyRow.name)
        rows = self._session.scalars(
            select(PolicyRow)
            .where(tuple_(PolicyRow.name, PolicyRow.version).in_(newest))
            .order_by(PolicyRow.name)
        )
        return {row.name: (row.version, row.body) for row in rows}

    def get(self, name: str, version: int) -> dict[str, Any] | None:
        """Give the body of one version; ``None`` where there is none."""
        row = self._session.get(PolicyRow, (name, version))
        return None if row is None else row.body

    def history(self, name: str) -> list[PolicyVersion]:
        """Give every version of a policy, oldest first."""
        rows = self._session.scalars(
            select(PolicyRow).where(PolicyRow.name == name).order_by(PolicyRow.version)
        )
        return [PolicyVersion(version=row.version, body=row.body, created_at=row.created_at) for row in rows]

    def _last(self, name: str) -> PolicyRow | None:
        return self._session.scalars(
            select(PolicyRow).where(PolicyRow.name == name).order_by(PolicyRow.version.desc()).limit(1)
        ).first()
