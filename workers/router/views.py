"""What a router decides from: one version of the published state, with its policies built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from routing.embedders import Embedder, Fingerprint
from routing.errors import InvalidInputError
from routing.snapshot import Snapshot
from workers.calls.gates import Limits as CallLimits
from workers.errors import PoisonError
from workers.policies import Declaration, explore_at_least, read_policy
from workers.storage.snapshots import PublishedState
from workers.storage.tenants import Tenant

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPolicy:
    """A policy in force, with the body that it was declared by."""

    name: str
    #: ``NAME@VERSION``.
    version: str
    body: Mapping[str, Any]
    declaration: Declaration

    @classmethod
    def build(cls, name: str, version: int, body: Mapping[str, Any]) -> "NamedPolicy":
        """Build what ``body`` declares; ``InvalidInputError`` names what cannot be built."""
        return cls(name=name, version=f"{name}@{version}", body=body, declaration=read_policy(name, body))

    def exploring(self, share: float | None) -> "NamedPolicy":
        """Give the policy as a tenant has it: exploring at least this share, or never where it is 0."""
        body = explore_at_least(self.body, share)
        if body is self.body or (share and self.declaration.cascade is not None):
            return self
        return replace(self, body=body, declaration=read_policy(self.name, body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingView:
    """All that decisions are made from, as of one version of the state in Postgres."""

    snapshot: Snapshot
    #: The embedder that the snapshot's map was fitted on.
    embedder: Embedder
    policies: Mapping[str, NamedPolicy]
    #: Policies that this version of uniroute cannot build, each with the reason.
    unusable: Mapping[str, str] = field(default_factory=dict)
    #: Those that were declared, by name.
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    #: What providers allow in a minute, by LLM.
    limits: Mapping[str, CallLimits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.snapshot.cluster_map.fingerprint.require(self.embedder.fingerprint)


def require_policy(name: str, view: RoutingView) -> NamedPolicy:
    """Give a policy in force; ``PoisonError`` of class ``unusable_policy`` or ``unknown_policy``."""
    if name in view.unusable:
        raise PoisonError("unusable_policy", f"policy {name} cannot be used: {view.unusable[name]}")
    if name not in view.policies:
        listed = ", ".join(sorted(view.policies)) or "none"
        raise PoisonError("unknown_policy", f"no policy is named {name[:80]!r}; in force: {listed}")
    return view.policies[name]


def build_view(
    state: PublishedState,
    *,
    open_embedder: Callable[[Fingerprint], Embedder],
    previous: RoutingView | None = None,
) -> RoutingView | None:
    """Make a view of a published state; ``None`` where it holds no snapshot.

    The embedder of ``previous`` serves on while the map's fingerprint stays. A policy that cannot be built,
    declared for a newer version, say, is left out, and prompts that ask for it are told. Raises what
    ``open_embedder`` raises, ``FingerprintMismatchError`` among it.
    """
    if state.snapshot is None:
        return None
    fingerprint = state.snapshot.cluster_map.fingerprint
    if previous is not None and previous.embedder.fingerprint == fingerprint:
        embedder = previous.embedder
    else:
        embedder = open_embedder(fingerprint)
    policies, unusable = {}, {}
    for name, (version, body) in state.policies.items():
        try:
            policies[name] = NamedPolicy.build(name, version, body)
        except InvalidInputError as error:
            unusable[name] = str(error)
            log.warning("policy_unusable", policy=name, problem=str(error))
    return RoutingView(
        snapshot=state.snapshot,
        embedder=embedder,
        policies=policies,
        unusable=unusable,
        tenants=state.tenants,
        limits={
            name: CallLimits(
                requests_per_minute=found.registration.requests_per_minute,
                tokens_per_minute=found.registration.tokens_per_minute,
            )
            for name, found in state.registered.items()
        },
    )
