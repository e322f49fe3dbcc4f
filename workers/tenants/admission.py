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
    tenant = find_tenant(prompt.tenant, tenants)
    if tenant is None:
        known = ", ".join(sorted({DEFAULT_TENANT, *tenants}))
        raise PoisonError(
            "unknown_tenant", f"no tenant is named {prompt.tenant[:80]!r}; known: {known[:300]}"
        )
    policy = tenant.default_policy if prompt.policy is None else prompt.policy
    asked = DEFAULT_POLICY if policy is None else policy
    if tenant.policies is not None and asked not in tenant.policies:
        allowed = ", ".join(sorted(tenant.policies)) or "none"
        raise PoisonError(
            "forbidden_policy",
            f"tenant {tenant.name} may not use policy {asked[:80]!r}; allowed: {allowed}",
        )
    return replace(prompt, tenant=tenant.name, policy=policy), tenant


def narrow(prompt: Prompt, tenant: Tenant) -> Prompt:
    """Give the prompt with the LLMs that its tenant may use as a limit beside its own."""
    if tenant.llms is None:
        return prompt
    return replace(prompt, limits=prompt.limits.tightened(Limits(candidates=tenant.llms)))
