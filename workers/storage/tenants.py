"""Tenants: who pays for prompts, what each may use and spend."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from workers.errors import UsageError
from workers.storage.routing_state import RoutingState
from workers.storage.tables import AT_LIMIT, MAX_NAME_BYTES, TenantRow

AtLimit = Literal["error", "degrade"]

#: Pays for every prompt that names no tenant; without limits unless somebody sets them.
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant, as an operator declared it; ``InvalidInputError`` names a field that cannot be used."""

    name: str
    #: USD that may be spent in each day and each month, both of UTC; ``None``: as much as there is.
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    #: Policies that it may ask for, and LLMs that may serve it; ``None``: any.
    policies: frozenset[str] | None = None
    llms: frozenset[str] | None = None
    #: Policy of its prompts that name none; ``None``: the installation's.
    default_policy: str | None = None
    #: Weight of its prompts among those of others in a lane.
    priority: float = 1.0
    #: What a prompt gets that the budget does not cover: an error reply, or the cheapest LLM all the same.
    at_limit: AtLimit = "error"
    #: Least share of its prompts that is explored with, whatever the policy says; 0: none ever.
    exploration_share: float | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= MAX_NAME_BYTES or not self.name.isprintable():
            raise InvalidInputError("name", f"must be printable and have 1 to {MAX_NAME_BYTES} bytes")
        for field in ("usd_per_day", "usd_per_month"):
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(field, f"must be a finite number of USD, at least 0, not {value!r}")
        if not (math.isfinite(self.priority) and self.priority > 0):
            raise InvalidInputError("priority", f"must be a finite number above 0, not {self.priority!r}")
        if self.exploration_share is not None and not 0 <= self.exploration_share <= 1:
            raise InvalidInputError("exploration_share", f"must be in 0..1, not {self.exploration_share!r}")
        if self.at_limit not in AT_LIMIT:
            raise InvalidInputError("at_limit", f"{self.at_limit!r} is none of {', '.join(AT_LIMIT)}")
        if self.policies is not None and self.default_policy not in {None, *self.policies}:
            raise InvalidInputError(
                "default_policy", f"{self.default_policy!r} is not among the policies allowed"
            )

    @property
    def has_budget(self) -> bool:
        """Whether spending is limited at all."""
        return self.usd_per_day is not None or self.usd_per_month is not None


class Tenants:
    """Tenants by name. Removing one forgets what it may do, never what it has spent."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, tenant: Tenant) -> None:
        """Put a new tenant in force; ``UsageError`` where the name is taken."""
        RoutingState(self._session).bump()
        if self._session.get(TenantRow, tenant.name) is not None:
            raise UsageError(f"a tenant named {tenant.name!r} exists already: change it with tenant set")
        self._put(tenant)

    def set(self, tenant: Tenant) -> None:
        """Put a tenant in force in place of what had its name, if anything."""
        RoutingState(self._session).bump()
        self._put(tenant)

    def remove(self, name: str) -> None:
        """Forget a tenant: prompts that name it are refused; ``UsageError`` where there is none."""
        RoutingState(self._session).bump()
        gone = self._session.scalars(
            delete(TenantRow).where(TenantRow.name == name).returning(TenantRow.name)
        ).all()
        if not gone:
            raise UsageError(_unknown(name, list(self.list())))

    def list(self) -> dict[str, Tenant]:
        """Give every tenant that was declared, by name in ascending order."""
        rows = sorted(self._session.scalars(select(TenantRow)), key=lambda row: row.name)
        return {row.name: _read(row) for row in rows}

    def get(self, name: str) -> Tenant:
        """Give one tenant; ``UsageError`` where there is none, but for the default, which always is."""
        row = self._session.get(TenantRow, name)
        if row is None and name != DEFAULT_TENANT:
            raise UsageError(_unknown(name, list(self.list())))
        return Tenant(name=name) if row is None else _read(row)

    def _put(self, tenant: Tenant) -> None:
        self._session.merge(
            TenantRow(
                name=tenant.name,
                usd_per_day=tenant.usd_per_day,
                usd_per_month=tenant.usd_per_month,
                policies=_write(tenant.policies),
                llms=_write(tenant.llms),
                default_policy=tenant.default_policy,
                priority=tenant.priority,
                at_limit=tenant.at_limit,
                exploration_share=tenant.exploration_share,
            )
        )
        self._session.flush()


def find_tenant(name: str | None, tenants: Mapping[str, Tenant]) -> Tenant | None:
    """Give the tenant that a prompt names, the default where it names none; ``None`` for an unknown one."""
    name = name or DEFAULT_TENANT
    return tenants.get(name) or (Tenant(name=name) if name == DEFAULT_TENANT else None)


def _unknown(name: str, known: Collection[str]) -> str:
    return f"no tenant is named {name[:80]!r}; known: {', '.join(sorted({DEFAULT_TENANT, *known}))}"


def _write(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _read(row: TenantRow) -> Tenant:
    return Tenant(
        name=row.name,
        usd_per_day=row.usd_per_day,
        usd_per_month=row.usd_per_month,
        policies=None if row.policies is None else frozenset(row.policies),
        llms=None if row.llms is None else frozenset(row.llms),
        default_policy=row.default_policy,
        priority=row.priority,
        at_limit=row.at_limit,  # type: ignore[arg-type]  # a CHECK keeps it one of the two
        exploration_share=row.exploration_share,
    )
