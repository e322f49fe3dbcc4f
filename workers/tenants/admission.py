"""Holds a prompt against what its tenant may ask for."""

from collections.abc import Mapping
from dataclasses import replace

from routing.requests import Limits
from workers.errors import PoisonError
from workers.policies import DEFAULT_POLICY
from workers.prompts import Prompt
from workers.storage.tenants import DEFAULT_TENANT, Tenant, find_tenant


def admit(prompt: Prompt, tenants: Mapping[str, Tenant]) -> tuple[Prompt, Tenant]:
    """Give the prompt with its tenant's name and default policy on it, and the tenant.

    Raises ``PoisonError`` of class ``unknown_tenant``, or ``forbidden_policy`` for one that it may not use.
    """
    tenant = require_tenant(prompt.tenant, tenants)
    return replace(prompt, tenant=tenant.name, policy=permit_policy(prompt.policy, tenant)), tenant


def require_tenant(name: str, tenants: Mapping[str, Tenant]) -> Tenant:
    """Give the tenant of this name, the default for none; ``PoisonError`` of class ``unknown_tenant``."""
    tenant = find_tenant(name, tenants)
    if tenant is None:
        known = ", ".join(sorted({DEFAULT_TENANT, *tenants}))
        raise PoisonError("unknown_tenant", f"no tenant is named {name[:80]!r}; known: {known[:300]}")
    return tenant


def permit_policy(policy: str | None, tenant: Tenant) -> str | None:
    """Give the policy that a prompt gets: its tenant's default where it names none; ``None``: everyone's.

    Raises ``PoisonError`` of class ``forbidden_policy`` for one that the tenant may not use.
    """
    policy = tenant.default_policy if policy is None else policy
    asked = DEFAULT_POLICY if policy is None else policy
    if tenant.policies is not None and asked not in tenant.policies:
        allowed = ", ".join(sorted(tenant.policies)) or "none"
        raise PoisonError(
            "forbidden_policy",
            f"tenant {tenant.name} may not use policy {asked[:80]!r}; allowed: {allowed}",
        )
    return policy


def narrow(prompt: Prompt, tenant: Tenant) -> Prompt:
    """Give the prompt with the LLMs that its tenant may use as a limit beside its own."""
    return replace(prompt, limits=narrow_limits(prompt.limits, tenant))


def narrow_limits(limits: Limits, tenant: Tenant) -> Limits:
    """Give the limits with the LLMs that a tenant may use among them."""
    return limits if tenant.llms is None else limits.tightened(Limits(candidates=tenant.llms))
