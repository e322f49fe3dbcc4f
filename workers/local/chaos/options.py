"""What an endurance run is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from workers.local.simulated.faults import EVERY_FAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run."""

    prompts: int = 5_000
    seed: int = 0
    #: Prompts without an end at any time: the run is a closed loop.
    concurrency: int = 96
    #: What goes wrong with calls to the simulated LLMs all the while.
    faults: Path = EVERY_FAULT
    #: How long Postgres is away.
    away_s: float = 30.0
    #: A worker that is silent for this long loses its partitions; frozen ones sleep half as long again.
    session_s: float = 6.0
    #: A call to an LLM is given up after this long: some of the faults hang for a minute.
    call_timeout_s: float = 10.0
    #: Prompts that the cluster map is fitted on, and labelled prompts that each LLM is learned from, at most.
    train: int = 400
    labels: int = 200

    @property
    def failing_s(self) -> float:
        """How long one LLM answers with errors alone."""
        return min(10.0, self.away_s)

    @property
    def frozen_s(self) -> float:
        """How long a frozen worker sleeps."""
        return 1.5 * self.session_s
