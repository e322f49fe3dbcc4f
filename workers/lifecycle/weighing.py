"""Holds a new LLM against those that are live: what another label of it is worth, and what it would win."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.costs import costs_at, price_table
from routing.embedders import FloatMatrix
from routing.learning import expected_losses, spread_lambdas
from routing.llms import LLM
from routing.policies import Exploration, Lagrangian
from routing.quality.counts import ErrorCounts
from workers.policies import read_policy
from workers.storage.cluster_maps import FittedMap
from workers.storage.snapshots import PublishedState

#: Prompts that stand for the traffic when it is asked what another label is worth.
_ASKED_ON = 1_000
#: Standard deviations on either side of a mean error that hold it with 90 %.
_NORMAL_90 = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an LLM beside those that are live."""

    #: Error that not knowing it better is expected to cost a prompt.
    loss: float
    #: Predicted mean error over the prompts, with what holds it with 90 %.
    error: float
    interval: tuple[float, float]
    #: Of the prompts, that it would win from the live LLMs, averaged over the lambdas.
    share: float


class Rivals:
    """The live LLMs at the prompts of a run of probes, as they stand when it begins.

    ``embeddings`` (n, d) and ``input_tokens`` (n,) are the prompts'; about a thousand of them stand for all.
    """

    def __init__(
        self,
        state: PublishedState,
        fitted: FittedMap,
        embeddings: FloatMatrix,
        input_tokens: NDArray[np.float64],
    ) -> None:
        every = slice(None, None, max(1, len(embeddings) // _ASKED_ON))
        self._prior = fitted.prior
        self._weights = fitted.cluster_map.weights(embeddings[every])
        self._tokens = input_tokens[every]
        self._live = live = state.snapshot if state.snapshot is not None and state.snapshot.llms else None
        if live is None:
            return
        self._costs = live.predict_costs(self._tokens).mean(axis=0)
        self._errors = live.predict_errors(self._weights)
        known = live.predict_deviations(self._weights)
        self._deviations = np.zeros(self._errors.shape) if known is None else known
        self._lambdas = _lambdas(state.policies)

    def weigh(self, llm: LLM, counts: ErrorCounts, *, cost: float | None) -> Known:
        """Hold what labels say of one LLM, (C, 1), against the live ones, at the lambdas in force.

        ``cost`` is the mean of its answers so far; before the first it is what its prices let expect.
        """
        errors = self._weights @ self._prior.error_rates(counts.errors, counts.labels)
        deviations = self._weights @ self._prior.deviations(counts.errors, counts.labels)
        mean, half = float(errors.mean()), _NORMAL_90 * float(deviations.mean())
        interval = (max(0.0, mean - half), min(1.0, mean + half))
        if self._live is None:
            return Known(loss=0.0, error=mean, interval=interval, share=1.0)
        if cost is None:
            length = np.array([llm.expected_output_tokens])
            cost = float(costs_at(price_table([llm]), self._tokens, length).mean())
        costs = np.append(self._costs, cost)
        errors = np.hstack([self._errors, errors])
        lambdas = np.array(self._lambdas or spread_lambdas(errors, costs).tolist())
        losses = expected_losses(errors, np.hstack([self._deviations, deviations]), costs, lambdas)
        wins = [(errors + rate * costs).argmin(axis=1) == len(costs) - 1 for rate in lambdas]
        return Known(loss=float(losses[-1]), error=mean, interval=interval, share=float(np.mean(wins)))


def _lambdas(policies: dict[str, tuple[int, dict[str, Any]]]) -> list[float]:
    """Give the lambdas of the policies in force that have one."""
    found = []
    for name, (_, body) in policies.items():
        policy = read_policy(name, body).policy
        policy = policy.policy if isinstance(policy, Exploration) else policy
        if isinstance(policy, Lagrangian) and np.isfinite(policy.error_per_usd):
            found.append(policy.error_per_usd)
    return found
