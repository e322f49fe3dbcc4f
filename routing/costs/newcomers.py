"""What is expected of LLMs that joined after lengths and seconds were learned: what the others suggest."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.costs.latencies import LatencyModel
from routing.costs.lengths import LengthModel
from routing.costs.usage import Matrix
from routing.errors import InvalidInputError


def admit_newcomers(
    lengths: LengthModel,
    latencies: LatencyModel,
    *,
    columns: Sequence[int],
    replies: Matrix,
    prior_tokens: Matrix,
) -> tuple[LengthModel, LatencyModel]:
    """Give both models with one column per LLM, ``columns`` (H,) of the fitted ones or -1 for a newcomer.

    A newcomer's answers have its own ``prior_tokens`` (H,) at the usual length of a prompt. They follow the
    prompt's length, scatter and take time, and its prompts are billed, as those of the LLMs known do on
    average, weighted by ``replies`` of each fitted column; the scatter of their speeds is added to its own.
    Cells make no difference to it. It is what the fits give an LLM without replies, as far as the fitted
    columns tell.

    The columns that were fitted keep every bit. Newcomers' bits follow from the arguments alone: sums are
    exact, so neither the processor nor the order of LLMs matters. ``InvalidInputError`` where there is a
    newcomer and no fitted column to go by.
    """
    at = np.asarray(columns, dtype=np.int64)
    new = at < 0
    if not new.any():
        return _take(lengths, latencies, at)
    if not len(lengths.levels):
        raise InvalidInputError("lengths", "has no LLM that others could be judged by")
    shares = _shares(replies)
    known_lengths, known_latencies = _take(lengths, latencies, np.maximum(at, 0))
    slope, variance = _mean(shares, lengths.slopes), _mean(shares, lengths.spreads**2)
    levels = np.log1p(prior_tokens) - variance / 2 - slope * lengths.log_input
    speed = _mean(shares, latencies.levels)
    doubt = _mean(shares, latencies.spreads**2) + _mean(shares, (latencies.levels - speed) ** 2)
    return (
        LengthModel(
            levels=np.where(new, levels, known_lengths.levels),
            slopes=np.where(new, slope, known_lengths.slopes),
            offsets=np.where(new, 0.0, known_lengths.offsets),
            spreads=np.where(new, math.sqrt(variance), known_lengths.spreads),
            smears=np.where(new, math.exp(variance / 2), known_lengths.smears),
            log_input=lengths.log_input,
            input_ratios=np.where(new, _mean(shares, lengths.input_ratios), known_lengths.input_ratios),
        ),
        LatencyModel(
            levels=np.where(new, speed, known_latencies.levels),
            slopes=np.where(new, _mean(shares, latencies.slopes), known_latencies.slopes),
            spreads=np.where(new, math.sqrt(doubt), known_latencies.spreads),
        ),
    )


def _take(
    lengths: LengthModel, latencies: LatencyModel, at: NDArray[np.int64]
) -> tuple[LengthModel, LatencyModel]:
    return (
        LengthModel(
            levels=lengths.levels[at],
            slopes=lengths.slopes[at],
            offsets=lengths.offsets[:, at],
            spreads=lengths.spreads[at],
            smears=lengths.smears[at],
            log_input=lengths.log_input,
            input_ratios=lengths.input_ratios[at],
        ),
        LatencyModel(levels=latencies.levels[at], slopes=latencies.slopes[at], spreads=latencies.spreads[at]),
    )


def _shares(replies: Matrix) -> Matrix:
    """Give the weights of the fitted columns; all alike where none has a reply."""
    total = math.fsum(replies.tolist())
    shares: Matrix = replies / total if total > 0 else np.full(len(replies), 1 / len(replies))
    return shares


def _mean(shares: Matrix, values: Matrix) -> float:
    return math.fsum((shares * values).tolist())
