"""Decide: prompts, snapshot and policy in, one LLM per prompt out, with what explains and repeats it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from routing.clusters import Placement, Share, split_observation
from routing.errors import InvalidInputError, NoCandidateError
from routing.policies import (
    Allowed,
    Candidates,
    Choices,
    Policy,
    Scored,
    UniformSource,
    allowed_llms,
    keep_on_trial,
)
from routing.requests import Limits, Prompts, check_limits, check_tokens
from routing.snapshot import Snapshot, Versions

__all__ = [
    "CandidateFacts",
    "Decisions",
    "Explanation",
    "Prompts",
    "decide",
    "decide_in_blocks",
    "decide_placed",
    "explain",
]


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
    #: Shape (n,): how far each prompt is from the nearest centroid; ``None`` of decisions made again.
    distances: NDArray[np.float32] | None
    #: Shape (n, H): predicted error and expected USD of every LLM.
    errors: NDArray[np.float64]
    costs: NDArray[np.float64]
    #: Shape (n, H): USD that a call hardly exceeds, which ``max_cost_usd`` was held against.
    ceilings: NDArray[np.float64]
    #: Shape (n, H): seconds that a call hardly exceeds, where latency has been learned.
    seconds: NDArray[np.float64] | None
    #: Shape (H,): standard deviations of the logarithm of those seconds, where latency has been learned.
    second_spreads: NDArray[np.float64] | None
    #: Shape (n, H): standard deviations of ``errors``, where the snapshot has them.
    deviations: NDArray[np.float64] | None
    #: What the limits left.
    allowed: Allowed
    #: The LLMs' names, ascending.
    names: tuple[str, ...]
    map_version: str
    #: Cells of each resolution of that map.
    sizes: tuple[int, ...]
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

    def require_llm(self, row: int) -> str:
        """Give the name of the LLM chosen for one prompt; ``NoCandidateError`` tells what removed each.

        It is raised too where something was allowed but the policy chose none of it, as ``Fixed`` may.
        """
        name = self.llm(row)
        if name is None:
            raise NoCandidateError(self.removed(row))
        return name

    def shares(self, row: int) -> tuple[Share, ...]:
        """Give the cells that feedback on one prompt is split over; see ``split_observation``."""
        return split_observation(self.weights[row], self.cells[row], self.sizes)

    def candidates(self, row: int) -> Candidates:
        """Give what the policy saw of one prompt: a batch of one."""
        return self.all_candidates().rows(slice(row, row + 1))

    def all_candidates(self) -> Candidates:
        """Give what the policy saw of every prompt."""
        return Candidates(
            errors=self.errors,
            costs=self.costs,
            allowed=self.allowed.mask,
            names=self.names,
            deviations=self.deviations,
            ceilings=self.ceilings,
        )

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


def decide_in_blocks(
    prompts: Prompts, snapshot: Snapshot, policy: Policy, *, rng: UniformSource, block: int = 8192
) -> Iterator[Decisions]:
    """Decide any number of prompts, a block at a time: the same decisions in the memory of one block.

    A block needs about ``8 (4 H + C)`` bytes a prompt beside its embeddings. (A policy that spends along the
    batch, ``Ceiling``, is given its remainder for each block by the caller, with ``decide``.)
    """
    if block < 1:
        raise InvalidInputError("block", f"must be at least 1, not {block}")
    for start in range(0, len(prompts), block):
        rows = slice(start, start + block)
        part = Prompts(
            embeddings=prompts.embeddings[rows],
            input_tokens=prompts.input_tokens[rows],
            limits=None if prompts.limits is None else prompts.limits[rows],
        )
        yield decide(part, snapshot, policy, rng=rng)


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

    LLMs on trial are offered to their shares of the prompts, and not to the others.

    A replay passes the logged weights, cells, token counts, limits and ``LoggedDraws``, the same snapshot and
    policy, and gets the same decisions bit for bit, in whatever batches.
    """
    input_tokens = np.asarray(input_tokens, dtype=np.float64)
    check_tokens(input_tokens, len(placement.weights))
    check_limits(limits, len(placement.weights))
    if len(placement.cells) != len(placement.weights):
        raise InvalidInputError("cells", f"must be {len(placement.weights)} rows, not {len(placement.cells)}")
    found = _predict(placement, input_tokens, limits, snapshot)
    allowed = allowed_llms(
        limits,
        snapshot.llms,
        input_tokens=snapshot.predict_inputs(input_tokens),
        errors=found.errors,
        ceilings=found.ceilings,
        seconds=found.seconds,
    )
    candidates = Candidates(
        errors=found.errors,
        costs=found.costs,
        allowed=allowed.mask,
        names=snapshot.names,
        deviations=found.deviations,
        ceilings=found.ceilings,
    )
    choices = keep_on_trial(policy, snapshot.canaries).choose(candidates, rng=rng)
    latencies = snapshot.latencies
    return Decisions(
        llms=choices.llms,
        predicted_errors=_chosen(found.errors, choices),
        predicted_costs=_chosen(found.costs, choices),
        propensities=choices.propensities,
        draws=choices.draws,
        cells=placement.cells,
        weights=placement.weights,
        distances=placement.distances,
        errors=found.errors,
        costs=found.costs,
        ceilings=found.ceilings,
        seconds=found.seconds,
        second_spreads=None if latencies is None else latencies.total_spreads(snapshot.lengths),
        deviations=found.deviations,
        allowed=allowed,
        names=snapshot.names,
        map_version=snapshot.cluster_map.version,
        sizes=snapshot.cluster_map.sizes,
        versions=snapshot.versions,
    )


@dataclass(frozen=True, slots=True)
class _Predicted:
    """What is predicted of each prompt with each LLM, shape (n, H), as ``Decisions`` has it."""

    errors: NDArray[np.float64]
    costs: NDArray[np.float64]
    ceilings: NDArray[np.float64]
    seconds: NDArray[np.float64] | None
    deviations: NDArray[np.float64] | None


def _predict(
    placement: Placement,
    input_tokens: NDArray[np.float64],
    limits: Sequence[Limits] | None,
    snapshot: Snapshot,
) -> _Predicted:
    weights, most = placement.weights, _most_tokens(limits)
    costs = snapshot.predict_costs(input_tokens, snapshot.predict_tokens(weights, input_tokens, most))
    known = snapshot.lengths is not None
    return _Predicted(
        errors=snapshot.predict_errors(weights),
        costs=costs,
        ceilings=snapshot.predict_ceilings(weights, input_tokens, most) if known else costs,
        seconds=snapshot.predict_seconds(weights, input_tokens, most),
        deviations=snapshot.predict_deviations(weights),
    )


Verdict = Literal["chosen", "removed", "equal", "worse", "better", "cheaper", "dearer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFacts:
    """One LLM in one decision, held against the one that was chosen."""

    name: str
    predicted_error: float
    #: Standard deviation of the predicted error, where it is estimated.
    error_deviation: float | None
    cost_usd: float
    #: What the caller's greatest cost was held against: USD that the call hardly exceeds.
    ceiling_usd: float
    #: What the deadline was held against: seconds that the call hardly exceeds, where latency is known.
    seconds: float | None
    #: What the policy minimised, where it minimises a score.
    score: float | None
    #: The limit that removed it.
    removed_by: str | None
    #: ``cheaper``: saves money and errs more than the chosen one. ``dearer``: errs less and costs more.
    #: ``worse``: no better in either and worse in one; ``better``: the reverse, so that the policy looks at
    #: something else. ``equal``: the same in both, so the name decided. Where nothing was chosen all that
    #: stay are ``equal``.
    verdict: Verdict
    #: For ``cheaper`` and ``dearer``: the lambda, in error per USD, at which the two would score the same.
    #: The cheaper of the two wins above it, the dearer below.
    break_even: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one prompt went where it went."""

    #: ``None``: nothing was allowed, or the policy chose none of what was.
    llm: str | None
    propensity: float
    #: The chosen first, then the allowed by score (by error where there is none), then the removed by name.
    candidates: tuple[CandidateFacts, ...]
    #: The clusters with the greatest weights, greatest first: column and weight.
    clusters: tuple[tuple[int, float], ...]
    map_version: str
    versions: Versions


def explain(decisions: Decisions, row: int, *, policy: object = None, clusters: int = 5) -> Explanation:
    """Explain the decision of one prompt; with the ``policy`` that made it, its scores too."""
    scores = policy.scores(decisions.candidates(row))[0] if isinstance(policy, Scored) else None
    removed = decisions.removed(row)
    facts = [
        _state_facts(decisions, row, column, removed.get(name), scores)
        for column, name in enumerate(decisions.names)
    ]
    heaviest = np.argsort(-decisions.weights[row], kind="stable")[:clusters]
    return Explanation(
        llm=decisions.llm(row),
        propensity=float(decisions.propensities[row]),
        candidates=tuple(sorted(facts, key=_rank)),
        clusters=tuple((int(column), float(decisions.weights[row, column])) for column in heaviest),
        map_version=decisions.map_version,
        versions=decisions.versions,
    )


def _rank(facts: CandidateFacts) -> tuple[int, float, str]:
    if facts.verdict == "removed":
        return 2, 0.0, facts.name
    score = facts.predicted_error if facts.score is None else facts.score
    return int(facts.verdict != "chosen"), score, facts.name


def _state_facts(
    decisions: Decisions, row: int, column: int, removed_by: str | None, scores: NDArray[np.float64] | None
) -> CandidateFacts:
    error, cost = float(decisions.errors[row, column]), float(decisions.costs[row, column])
    chosen = int(decisions.llms[row])
    more_error = error - float(decisions.errors[row, chosen]) if chosen >= 0 else 0.0
    more_cost = cost - float(decisions.costs[row, chosen]) if chosen >= 0 else 0.0
    verdict = _compare(more_error, more_cost)
    if removed_by is not None:
        verdict = "removed"
    elif column == chosen:
        verdict = "chosen"
    return CandidateFacts(
        name=decisions.names[column],
        predicted_error=error,
        error_deviation=None if decisions.deviations is None else float(decisions.deviations[row, column]),
        cost_usd=cost,
        ceiling_usd=float(decisions.ceilings[row, column]),
        seconds=None if decisions.seconds is None else float(decisions.seconds[row, column]),
        score=None if scores is None else float(scores[column]),
        removed_by=removed_by,
        verdict=verdict,
        break_even=-more_error / more_cost if verdict in {"cheaper", "dearer"} else None,
    )


def _compare(more_error: float, more_cost: float) -> Verdict:
    if more_error == 0 and more_cost == 0:
        return "equal"
    if more_error >= 0 and more_cost >= 0:
        return "worse"
    if more_error <= 0 and more_cost <= 0:
        return "better"
    return "cheaper" if more_cost < 0 else "dearer"


def _most_tokens(limits: Sequence[Limits] | None) -> NDArray[np.float64] | None:
    """Give the answer tokens that each caller allows, shape (n,), or ``None`` where nobody limits them."""
    if limits is None or all(wish.max_output_tokens is None for wish in limits):
        return None
    most = [np.inf if wish.max_output_tokens is None else wish.max_output_tokens for wish in limits]
    return np.array(most, dtype=np.float64)


def _chosen(values: NDArray[np.float64], choices: Choices) -> NDArray[np.float64]:
    if values.shape[1] == 0:
        return np.full(len(values), np.nan)
    picked = np.take_along_axis(values, np.maximum(choices.llms, 0)[:, None], axis=1)[:, 0]
    return np.where(choices.llms >= 0, picked, np.nan)
