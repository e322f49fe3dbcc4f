"""How a dispatch is to be served beside the choice of its LLM: by its policy, or as its caller wishes."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from routing.decisions import Decisions
from routing.snapshot import Snapshot
from workers import messages
from workers.cascades import CascadeCandidate, CascadeSpec, combine, read_wish
from workers.errors import PoisonError
from workers.messages import Headers, Message
from workers.policies import Declaration


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a policy declares, where the headers of the prompt do not say otherwise."""

    cascade: CascadeSpec | None
    cache_seconds: float
    on_failure: str


def read_serving(message: Message, declared: Declaration) -> Serving:
    """Read the headers of a prompt over its policy; ``PoisonError`` (``bad_header``) for what cannot be."""
    cache_seconds = messages.number_header(message, messages.CACHE_SECONDS)
    on_failure = message.text_header(messages.ON_FAILURE)
    if on_failure and on_failure not in messages.ON_FAILURES:
        known = ", ".join(messages.ON_FAILURES)
        raise PoisonError(
            "bad_header", f"header {messages.ON_FAILURE} is {on_failure[:40]!r}: known are {known}"
        )
    cascading = declared.cascade
    return Serving(
        cascade=combine(None if cascading is None else cascading.spec, read_wish(message)),
        cache_seconds=declared.cache_seconds if cache_seconds is None else cache_seconds,
        on_failure=on_failure or declared.on_failure,
    )


def serving_headers(
    serving: Serving, decisions: Decisions, row: int, *, asked: Sequence[str], may_cascade: bool
) -> Headers:
    """Give the headers by which an executor serves so; ``asked`` are the LLMs that a cascade may ask."""
    headers: list[tuple[str, bytes]] = []
    if serving.cascade is not None and may_cascade:
        rule = msgspec.structs.replace(serving.cascade, candidates=_predict(decisions, row, asked))
        headers.append((messages.CASCADE, msgspec.json.encode(rule)))
    if serving.cache_seconds:
        headers.append((messages.CACHE_SECONDS, repr(serving.cache_seconds).encode()))
    if serving.on_failure != messages.ON_FAILURES[0]:
        headers.append((messages.ON_FAILURE, serving.on_failure.encode()))
    return tuple(headers)


def scoring_ceilings(
    cascade: CascadeSpec,
    decisions: Decisions,
    row: int,
    snapshot: Snapshot,
    *,
    asked: Sequence[str],
    prompt_bytes: int,
    input_tokens: float,
    most_tokens: float | None,
) -> tuple[float, ...]:
    """Give the USD that the scorer's call for each LLM's answer hardly exceeds; 0 where there is none.

    ``asked`` are all LLMs of the cascade, the chosen first; the prompt has so many bytes and tokens, and its
    answer ``most_tokens`` at most. Where LLMs are asked in order the last one's answer is taken whatever
    anybody says of it.
    """
    scorer = cascade.judge
    if scorer is None:
        return (0.0,) * len(asked)
    longest = snapshot.predict_longest(
        decisions.weights[row : row + 1],
        np.array([input_tokens]),
        None if most_tokens is None else np.array([most_tokens], dtype=np.float64),
    ).reshape(-1)
    judged = asked if cascade.weighs_all or cascade.error_per_usd is not None else asked[:-1]
    return tuple(
        scorer.ceiling_usd(
            prompt_bytes=prompt_bytes, answer_tokens=float(longest[decisions.names.index(name)])
        )
        if name in judged
        else 0.0
        for name in asked
    )


def _predict(decisions: Decisions, row: int, names: Sequence[str]) -> tuple[CascadeCandidate, ...]:
    columns = [decisions.names.index(name) for name in names]
    return tuple(
        CascadeCandidate(
            llm=name,
            error=float(decisions.errors[row, column]),
            cost_usd=float(decisions.costs[row, column]),
        )
        for name, column in zip(names, columns, strict=True)
    )
