"""Decide: prompts, snapshot and policy in, one LLM per prompt out, with what explains and repeats it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.clusters import Placement
from routing.errors import InvalidInputError
from routing.policies import Allowed, Candidates, Choices, Policy, UniformSource, allowed_llms
from routing.requests import Limits, Prompts, check_limits, check_tokens
from routing.snapshot import Snapshot, Versions

__all__ = ["Decisions", "Prompts", "decide", "decide_placed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The LLM chosen for each of ``n`` prompts, with what an offline decision needs to come out the same."""

    #: Shape (n,): columns of ``names``, or -1 where the limits left nothing.
    llms: NDArray[np.int64]
    #: Shape (n,): predicted error and expected USD of the chosen LLM; NaN where there is none.
    predicted_errors: NDArray[np.float64]
    predicted_costs: NDArray[np.float64]
    #: Shape (n,): the probability with which the policy chose it, in (0, 1]; 0 where there is none.
    propensities: NDArray[np.float64]
    #: Shape (n,): the uniform number the policy drew, or NaN.
    draws: NDArray[np.float64]
    #: Shape (n, R): hard cells.
    cells: NDArray[np.int32]
    #: Shape (n, C), float32: the weights that predicted the errors; ``decide_placed`` repeats the decision
    #: from them.
    weights: NDArray[np.float32]
    #: Shape (n, H): predicted error and expected USD of every LLM.
    errors: NDArray[np.float64]
    costs: NDArray[np.float64]
    #: What the limits left.
    allowed: Allowed
    #: The LLMs' names, ascending.
    names: tuple[str, ...]
    map_version: str
    versions: Versions

    def __len__(self) -> int:
        return len(self.llms)

    @property
    def no_candidate(self) -> NDArray[np.bool_]:
        """Shape (n,): true where the limits left no LLM; ``removed`` tells why."""
        return self.llms < 0

    def llm(self, row: int) -> str | None:
        """Give the name of the LLM chosen for one prompt, or ``None``."""
        column = int(self.llms[row])
        return None if column < 0 else self.names[column]

    def removed(self, row: int) -> dict[str, str]:
        """Give the LLMs that the limits of one prompt removed, each with the limit's name."""
        return self.allowed.reasons(row, self.names)


def decide(prompts: Prompts, snapshot: Snapshot, policy: Policy, *, rng: UniformSource) -> Decisions:
    """Choose an LLM for each prompt.

    A pure function of its arguments. Given the weights it computes, every number of a row has bits that do
    not depend on the other rows of the batch.

    Raises ``InvalidInputError`` when the embeddings do not fit the map.
    """
    placement = snapshot.cluster_map.place(prompts.embeddings)
    return decide_placed(placement, prompts.input_tokens, prompts.limits, snapshot, policy, rng=rng)


def decide_placed(
    placement: Placement,
    input_tokens: NDArray[np.float64],
    limits: Sequence[Limits] | None,
    snapshot: Snapshot,
    policy: Policy,
    *,
    rng: UniformSource,
) -> Decisions:
    """``decide`` from the second half on: from weights that are already known, or were logged.

    A replay passes the logged weights, cells, token counts, limits and ``LoggedDraws``, the same snapshot and
    policy, and gets the same decisions bit for bit, in whatever batches.
    """
    input_tokens = np.asarray(input_tokens, dtype=np.float64)
    check_tokens(input_tokens, len(placement.weights))
    check_limits(limits, len(placement.weights))
    if len(placement.cells) != len(placement.weights):
        raise InvalidInputError("cells", f"must be {len(placement.weights)} rows, not {len(placement.cells)}")
    errors = snapshot.predict_errors(placement.weights)
    costs = snapshot.predict_costs(input_tokens, _output_tokens(limits, snapshot))
    allowed = allowed_llms(limits, snapshot.llms, input_tokens=input_tokens, errors=errors, costs=costs)
    candidates = Candidates(errors=errors, costs=costs, allowed=allowed.mask, names=snapshot.names)
    choices = policy.choose(candidates, rng=rng)
    return Decisions(
        llms=choices.llms,
        predicted_errors=_chosen(errors, choices),
        predicted_costs=_chosen(costs, choices),
        propensities=choices.propensities,
        draws=choices.draws,
        cells=placement.cells,
        weights=placement.weights,
        errors=errors,
        costs=costs,
        allowed=allowed,
        names=snapshot.names,
        map_version=snapshot.cluster_map.version,
        versions=snapshot.versions,
    )


def _output_tokens(limits: Sequence[Limits] | None, snapshot: Snapshot) -> NDArray[np.float64]:
    """Give the expected tokens, no more than each caller allows: (H,) where nobody does, else (n, H)."""
    if limits is None or all(wish.max_output_tokens is None for wish in limits):
        return snapshot.output_tokens
    most = [np.inf if wish.max_output_tokens is None else wish.max_output_tokens for wish in limits]
    return np.minimum(np.array(most, dtype=np.float64)[:, None], snapshot.output_tokens)


def _chosen(values: NDArray[np.float64], choices: Choices) -> NDArray[np.float64]:
    if values.shape[1] == 0:
        return np.full(len(values), np.nan)
    picked = np.take_along_axis(values, np.maximum(choices.llms, 0)[:, None], axis=1)[:, 0]
    return np.where(choices.llms >= 0, picked, np.nan)
