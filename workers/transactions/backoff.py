"""How long to wait before trying again: exponential, with jitter, bounded."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that double from ``first_s`` up to ``longest_s``, each drawn from its upper half."""

    first_s: float = 0.1
    longest_s: float = 5.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the given number of failures in a row (1 or more)."""
        # The exponent is bounded before the power is taken: an outage of a week must not overflow.
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  # spreads retries, hides no secret
