"""PickLLM: a bandit that learns from rewards alone which LLM to call, blind to the prompt."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from routing.errors import InvalidInputError
from routing.quality.counts import Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BanditState:
    """What the bandit has learned: an estimate of each LLM's reward, and how often it was rewarded."""

    #: Shape (H,).
    values: Vector
    #: Shape (H,).
    counts: Vector

    @classmethod
    def start(cls, n_llms: int, *, value: float = 1.0) -> "BanditState":
        """Know nothing: each LLM is expected to earn ``value``; hope tries each in turn."""
        return cls(values=np.full(n_llms, float(value)), counts=np.zeros(n_llms))


@dataclass(frozen=True, slots=True, kw_only=True)
class PickLLM:
    """Stateless Q-learning with epsilon-greedy choice; state in, new state out.

    The reward weighs quality against cost, as the caller sees fit. Source: PickLLM (arXiv 2412.12170).
    """

    #: Chance of calling an LLM at random; in [0, 1].
    exploration: float = 0.05
    #: Weight of a new reward; with None it is 1 / times rewarded, so that values are means.
    step: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.exploration <= 1:
            raise InvalidInputError("exploration", f"a chance in [0, 1], not {self.exploration!r}")
        if self.step is not None and not 0 < self.step <= 1:
            raise InvalidInputError("step", f"a weight in (0, 1], not {self.step!r}")

    def chances(self, state: BanditState) -> Vector:
        """Give the probability (H,) of calling each LLM, as replay needs it; ties go to the first."""
        n_llms = len(state.values)
        chances = np.full(n_llms, self.exploration / n_llms)
        chances[int(state.values.argmax())] += 1 - self.exploration
        return chances

    def choose(self, state: BanditState, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the LLMs (n,) of ``n`` prompts."""
        return rng.choice(len(state.values), size=n, p=self.chances(state))

    def learn(self, state: BanditState, llms: ArrayLike, rewards: ArrayLike) -> BanditState:
        """Take in finite rewards (n,) of calls to ``llms`` (n,), in their order."""
        chosen, earned = np.asarray(llms, dtype=np.int64), np.asarray(rewards, dtype=np.float64)
        if chosen.shape != earned.shape or not np.all(np.isfinite(earned)):
            raise InvalidInputError("rewards", "one finite reward per call is needed")
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(state.values)):
            raise InvalidInputError("llms", f"{chosen.min()} to {chosen.max()} of {len(state.values)} LLMs")
        values, counts = state.values.copy(), state.counts.copy()
        for llm, reward in zip(chosen.tolist(), earned.tolist(), strict=True):
            counts[llm] += 1
            values[llm] += (reward - values[llm]) * (self.step or 1 / counts[llm])
        return BanditState(values=values, counts=counts)
