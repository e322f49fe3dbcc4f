"""How much of a policy's traffic looks beyond it: declared with the policy, changed or ended per tenant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.policies import Exploration, Policy
from workers.policies.bodies import Body

_KEY = "explore"
_KEYS = ("share", "band", "max_usd")
#: Predicted error above the least, at most, unless the policy says otherwise.
_BAND = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """A part of the prompts that goes to LLMs near the least error, by Thompson sampling."""

    share: float
    band: float = _BAND
    max_usd: float = float("inf")

    def around(self, policy: Policy) -> Policy:
        """Give the policy with this exploration."""
        return Exploration(policy=policy, share=self.share, band=self.band, max_exploration_usd=self.max_usd)


def read_exploration(body: Body) -> Exploring | None:
    """Read ``explore: {share: 0.05, band: 0.02, max_usd: 0.01}``; ``None`` where it is not there or 0.

    Raises ``InvalidInputError`` naming policy and key.
    """
    if _KEY not in body:
        return None
    inner = body.inner(_KEY, keys=_KEYS)
    found = Exploring(
        share=inner.number("share", least=0.0, most=1.0),
        band=inner.number("band", least=0.0, most=1.0) if "band" in inner else _BAND,
        max_usd=inner.number("max_usd", least=0.0) if "max_usd" in inner else float("inf"),
    )
    return found if found.share > 0 else None


def explore_at_least(body: Mapping[str, Any], share: float | None) -> Mapping[str, Any]:
    """Give a policy's body as a tenant has it: exploring at least this share, or never where it is 0.

    ``None`` leaves the body as it is, and so does a share that it has already: the same object is given.
    """
    declared = body.get(_KEY) or {}
    if (
        share is None
        or (share == 0 and _KEY not in body)
        or (share > 0 and declared.get("share", 0) >= share)
    ):
        return body
    rest = {key: value for key, value in body.items() if key != _KEY}
    return rest if share == 0 else {**rest, _KEY: {**declared, "share": share}}
