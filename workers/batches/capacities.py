"""What LLMs take of a batch until its deadline, and how long its lines will take them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from routing.assignment import Lines, Supplies
from workers.batches.paces import Slow
from workers.batches.summing import Summed
from workers.calls.gates import Limits

_MINUTE_S = 60.0
#: Of what providers allow, so much is planned with: live traffic goes first.
_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacities:
    """Limits in a minute, by LLM, and the seconds for which they are to be used."""

    limits: Mapping[str, Limits] = field(default_factory=dict)
    seconds_left: float = np.inf
    #: Lines that are under way at a time, at most.
    window: int = 1

    def slowed(self, slow: Slow) -> "Capacities":
        """Limit LLMs to the lines in a second that they were seen to take, where nothing is stricter.

        Those that are under way at them already take their part of that.
        """
        limits = dict(self.limits)
        for llm, pace in slow.paces.items():
            declared = limits.get(llm, Limits())
            left = max(1.0, pace * self.seconds_left - slow.under_way.get(llm, 0)) / self.seconds_left
            most = min(declared.requests_per_minute or np.inf, _MINUTE_S * left)
            limits[llm] = replace(declared, requests_per_minute=most)
        return replace(self, limits=limits)

    def eased(self, factor: float) -> "Capacities":
        """Give what would be taken were every limit so many times what it is."""
        return replace(self, limits={name: _times(limit, factor) for name, limit in self.limits.items()})

    def supplies(self, lines: Lines, names: tuple[str, ...], *, budget_usd: float) -> Supplies:
        """Give what there is to assign from; what is more than all lines together need is no limit."""
        n = float(lines.sizes.sum())
        requests = self._until_deadline(names, "requests_per_minute", np.full(len(names), n))
        tokens = None
        if lines.tokens is not None:
            needed = (lines.tokens * lines.sizes[:, None]).sum(axis=0)
            tokens = self._until_deadline(names, "tokens_per_minute", needed)
        return Supplies(budget_usd=budget_usd, requests=requests, tokens=tokens)

    def seconds(self, summed: Summed, chosen: NDArray[np.int64], names: tuple[str, ...]) -> float | None:
        """Give the seconds that the lines take at the least if each goes to its column of ``chosen``, (G,).

        That is what the LLM with the least room needs, or what as many calls at a time as a batch has under
        way need where that is more; ``None`` where nothing limits and nothing is known of calls.
        """
        lines, served = summed.lines, chosen >= 0
        rows, columns = np.flatnonzero(served), chosen[served]
        sizes = lines.sizes[rows].astype(np.float64)
        requests = np.bincount(columns, sizes, len(names))
        found = [requests / self._per_second(names, "requests_per_minute")]
        if lines.tokens is not None:
            tokens = np.bincount(columns, sizes * lines.tokens[rows, columns], len(names))
            found.append(tokens / self._per_second(names, "tokens_per_minute"))
        by_limits = float(np.max(np.concatenate(found), initial=0.0))
        by_calls = 0.0
        if summed.seconds is not None:
            by_calls = float((sizes * summed.seconds[rows, columns]).sum()) / self.window
        return max(by_limits, by_calls) or None

    def _until_deadline(
        self, names: tuple[str, ...], limit: str, needed: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Give what each LLM takes, shape (H,), ``inf`` where that is enough; ``None`` where all is."""
        allowed = self._per_second(names, limit) * self.seconds_left * _SHARE
        allowed = np.where(allowed < needed, allowed, np.inf)
        return allowed if np.isfinite(allowed).any() else None

    def _per_second(self, names: tuple[str, ...], limit: str) -> NDArray[np.float64]:
        given = [getattr(self.limits[name], limit) if name in self.limits else None for name in names]
        return np.array([np.inf if one is None else one / _MINUTE_S for one in given])


def _times(limits: Limits, factor: float) -> Limits:
    def times(limit: float | None) -> float | None:
        return None if limit is None else limit * factor

    return Limits(
        requests_per_minute=times(limits.requests_per_minute),
        tokens_per_minute=times(limits.tokens_per_minute),
    )
