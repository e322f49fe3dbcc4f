"""Explains what would be chosen for a prompt now, and why, from the state that routers decide from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine

from routing.decisions import CandidateFacts, Explanation, Prompts, decide, explain
from routing.embedders import Embedder, Fingerprint
from routing.policies import probabilities_of
from routing.requests import Limits
from workers.errors import UsageError
from workers.policies import DEFAULT_POLICY, read_policy
from workers.prompts import count_tokens
from workers.storage.engine import transaction
from workers.storage.snapshots import load_state

#: Standard deviations on either side of a predicted error that hold it with 90 %.
_NORMAL_90 = 1.645
#: What is said where a policy spends a budget.
_MOVES = " This is by the lambda that the budget starts from; spending moves it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A decision that was not made for anybody, with what led to it."""

    #: ``NAME@VERSION``, with the body.
    policy: str
    body: Mapping[str, Any]
    input_tokens: float
    explanation: Explanation
    #: The probability with which the policy chooses each LLM, of those it ever chooses here.
    chances: Mapping[str, float]
    #: Why the winner won, in a sentence.
    reason: str


def explain_prompt(
    engine: Engine,
    text: str,
    *,
    open_embedder: Callable[[Fingerprint], Embedder],
    policy: str = DEFAULT_POLICY,
    limits: Limits | None = None,
) -> Explained:
    """Decide one prompt as a router would now, and say why it goes where it goes.

    A policy that draws is asked with the draw .5, one that spends a budget with the lambda that it starts
    from. Raises ``UsageError`` while no map is in force, or for a policy that is not.
    """
    with transaction(engine) as session:
        state = load_state(session)
    if state.snapshot is None:
        raise UsageError("no cluster map with error rates is in force: run `uniroute map fit` first")
    if policy not in state.policies:
        known = ", ".join(sorted(state.policies)) or "none"
        raise UsageError(f"no policy is named {policy!r}; in force: {known}")
    version, body = state.policies[policy]
    declared = read_policy(policy, body)
    chooser = declared.policy
    embedder = open_embedder(state.snapshot.cluster_map.fingerprint)
    asked = Prompts(
        embeddings=embedder.encode([text]),
        input_tokens=np.array([count_tokens(text)]),
        limits=None if limits is None else [limits],
    )
    decisions = decide(asked, state.snapshot, chooser, rng=_Even())
    found = explain(decisions, 0, policy=chooser)
    chances = probabilities_of(chooser, decisions.candidates(0))[0]
    return Explained(
        policy=f"{policy}@{version}",
        body=body,
        input_tokens=float(asked.input_tokens[0]),
        explanation=found,
        chances={
            name: float(chance) for name, chance in zip(decisions.names, chances, strict=True) if chance
        },
        reason=_reason(found, declared.kind) + (_MOVES if declared.budget is not None else ""),
    )


def interval(facts: CandidateFacts) -> tuple[float, float] | None:
    """Give what holds a predicted error with 90 %, within 0..1; ``None`` where no deviation is known."""
    if facts.error_deviation is None:
        return None
    half = _NORMAL_90 * facts.error_deviation
    return max(facts.predicted_error - half, 0.0), min(facts.predicted_error + half, 1.0)


class _Even:
    """Draws .5 whenever asked."""

    def random(self, size: int, /) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.full(size, 0.5)


def _reason(found: Explanation, kind: str) -> str:
    stayed = [facts for facts in found.candidates if facts.removed_by is None]
    if found.llm is None:
        return (
            "No LLM is left within the limits." if not stayed else f"The {kind} policy takes none of these."
        )
    winner = stayed[0]
    if len(stayed) == 1:
        return f"{winner.name} is the only LLM that the limits leave."
    if winner.score is not None:
        second = min(stayed[1:], key=lambda facts: facts.score if facts.score is not None else np.inf)
        tie = second.score == winner.score
        by = "ties with it and loses by cost, then error, then name" if tie else f"scores {second.score:.6f}"
        return (
            f"{winner.name} scores least, {winner.score:.6f} of error and weighed cost; {second.name} {by}."
        )
    return f"{winner.name} is what the {kind} policy takes with probability {found.propensity:.3f}."
