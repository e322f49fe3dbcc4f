"""The gates of all LLMs, each with the share of its limits that this executor has."""

import asyncio
from collections.abc import Callable, Mapping

from workers.calls.breaker import State
from workers.calls.gates import Gate, Limits
from workers.topics import LANES, Topics

Listener = Callable[[str, State, str], None]


class Gates:
    """Makes an LLM's gate when it is first asked for; belongs to one asyncio loop but for ``own``.

    An executor that owns k of the n partitions of an LLM's dispatch topic has k/n of its limits: the shares
    of all executors add up to one without anybody counting.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        most: int,
        on_state: Listener = lambda _llm, _state, _why: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._topics = topics
        self._most = most
        self._on_state = on_state
        self._clock = clock
        self._gates: dict[str, Gate] = {}
        self._shares: Mapping[str, float] | None = None

    def own(self, shares: Mapping[str, float]) -> None:
        """Note which part of each dispatch topic's partitions is owned; from any thread."""
        self._shares = dict(shares)

    @property
    def paused(self) -> frozenset[str]:
        """Dispatch topics of LLMs whose breaker is open: no more of them should be taken; from any thread."""
        return frozenset(
            self._topics.dispatch(llm, lane)
            for llm, gate in tuple(self._gates.items())
            if gate.state == "open"
            for lane in LANES
        )

    def gate(self, llm: str, limits: Limits) -> Gate:
        """Give an LLM's gate, with its limits as they are now."""
        gate = self._gates.get(llm)
        if gate is None:
            gate = self._gates[llm] = Gate(
                most=self._most,
                clock=self._clock or asyncio.get_running_loop().time,
                on_state=lambda state, why: self._on_state(llm, state, why),
            )
        gate.limit(limits, share=self._share(llm))
        return gate

    def _share(self, llm: str) -> float:
        if self._shares is None:
            return 1.0
        return self._shares.get(self._topics.dispatch(llm), 0.0)
