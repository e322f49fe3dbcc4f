"""Everything one decision needs, immutable and versioned; errors whose bits no batch can change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from routing.clusters import PromptMap
from routing.costs import LatencyModel, LengthModel, costs_at, price_table
from routing.errors import InvalidInputError, UnknownLLMError
from routing.llms import LLM
from routing.policies import check_trials

#: Error rates are whole multiples of 2**-28 (4e-9), weights of 2**-24: every product is a multiple of 2**-52
#: and every partial sum is below 2, so float64 holds each exactly. The sum then has one value, whatever the
#: order in which BLAS adds, the size of the batch, the number of threads or the processor.
RATE_BITS = 28

#: Of answers' lengths and seconds: a hard limit must hold for nearly all of them, not on average.
CEILING_QUANTILE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Which state decided; the map's version is the map's own."""

    error_rates: str
    prices: str
    policy: str = ""
    #: Of what is known of the LLMs beside their prices, and of the models of lengths and seconds.
    llms: str = ""
    lengths: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """A map, the LLMs in the order of their names, and what is known of each in each cell.

    Arrays are copied and made read-only. Raises ``InvalidInputError`` for shapes that do not fit, rates
    outside 0..1, NaN, or LLMs that are not in strictly ascending order of name; ``UnknownPriceError`` for one
    without price.
    """

    cluster_map: PromptMap
    llms: tuple[LLM, ...]
    #: Shape (C, H), in 0..1; kept as multiples of ``2**-RATE_BITS``.
    error_rates: NDArray[np.float64]
    #: Shape (H,): tokens an answer is expected to have.
    output_tokens: NDArray[np.float64]
    versions: Versions
    #: Standard deviations of ``error_rates``, shape (C, H), in 0..1; ``None`` where they are not estimated.
    error_deviations: NDArray[np.float64] | None = None
    #: How long answers will be, prompt by prompt; ``None``: ``output_tokens`` for every prompt.
    lengths: LengthModel | None = None
    #: How long calls will take; ``None``: nothing is known of it.
    latencies: LatencyModel | None = None
    #: LLMs on trial, by name: the share of prompts that each is offered to.
    canaries: Mapping[str, float] = field(default_factory=dict)
    #: The LLMs' names, ascending.
    names: tuple[str, ...] = field(init=False)
    # What ``price_table`` gives.
    _prices: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        llms = tuple(self.llms)
        names = tuple(llm.name for llm in llms)
        if any(first >= second for first, second in pairwise(names)):
            raise InvalidInputError("llms", "must be unique and in ascending order of name")
        shape = (sum(self.cluster_map.sizes), len(llms))
        tokens = np.array(self.output_tokens, dtype=np.float64)
        _check_output_tokens(tokens, len(llms))
        arrays = {
            "error_rates": _round_rates("error_rates", self.error_rates, shape),
            "output_tokens": tokens,
            "_prices": price_table(llms),
        }
        if self.error_deviations is not None:
            arrays["error_deviations"] = _round_rates("error_deviations", self.error_deviations, shape)
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.lengths is not None and self.lengths.offsets.shape != shape:
            raise InvalidInputError("lengths", f"must have shape {shape}, not {self.lengths.offsets.shape}")
        if self.latencies is not None and self.latencies.levels.shape != shape[1:]:
            raise InvalidInputError(
                "latencies", f"must have shape {shape[1:]}, not {self.latencies.levels.shape}"
            )
        if strange := sorted(set(self.canaries) - set(names)):
            raise InvalidInputError("canaries", f"names {strange[0]!r}, which is not among the LLMs")
        object.__setattr__(self, "canaries", check_trials(self.canaries))
        object.__setattr__(self, "llms", llms)
        object.__setattr__(self, "names", names)

    def column(self, name: str) -> int:
        """Give the column of an LLM; ``UnknownLLMError`` when no LLM has that name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise UnknownLLMError(name, self.names) from None

    def predict_errors(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give ``weights @ error_rates``, shape (n, H), exactly: no row's bits depend on its batch.

        ``weights`` has shape (n, C) and is what the map gave (multiples of 2**-24, rows summing to 1).
        """
        return _sum_exactly(weights, self.error_rates)

    def predict_deviations(self, weights: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Give ``weights @ error_deviations``, shape (n, H), exactly; ``None`` where they are not estimated.

        That is the standard deviation if the cells' errors of estimate move together, and an upper bound if
        not.
        """
        return None if self.error_deviations is None else _sum_exactly(weights, self.error_deviations)

    def predict_inputs(self, input_tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the tokens that each LLM bills for prompts that were estimated at ``input_tokens`` (n,).

        The shape is (n, H), or (n,) where nothing was learned and estimates stand as they are.
        """
        return input_tokens if self.lengths is None else self.lengths.billed_tokens(input_tokens)

    def predict_tokens(
        self,
        weights: NDArray[np.float32],
        input_tokens: NDArray[np.float64],
        most: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Give the tokens that answers are expected to have: (n, H), or (H,) where they are the same for all.

        ``most`` (n,) are the tokens that each caller allows, ``inf`` for no limit. Without a length model the
        lesser of expected and allowed is taken, which is a little above the mean of the lesser.
        """
        if self.lengths is not None:
            return self.lengths.expected_tokens(weights, input_tokens, most=most)
        if most is None:
            return self.output_tokens
        return np.minimum(most[:, None], self.output_tokens)

    def predict_ceilings(
        self,
        weights: NDArray[np.float32],
        input_tokens: NDArray[np.float64],
        most: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Give the USD, shape (n, H), that a call exceeds with probability 1 - ``CEILING_QUANTILE``.

        It is what a caller's greatest cost is held against. ``most`` as in ``predict_longest``.
        """
        return self.predict_costs(input_tokens, self.predict_longest(weights, input_tokens, most))

    def predict_longest(
        self,
        weights: NDArray[np.float32],
        input_tokens: NDArray[np.float64],
        most: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Give the tokens that an answer exceeds with probability 1 - ``CEILING_QUANTILE``, (n, H) or (H,).

        ``most`` as in ``predict_tokens``; no answer is longer. Without a length model nothing is known of the
        spread, and the expected tokens are given.
        """
        if self.lengths is None:
            return self.predict_tokens(weights, input_tokens, most)
        tokens = self.lengths.quantile_tokens(weights, input_tokens, quantile=CEILING_QUANTILE)
        return tokens if most is None else np.minimum(tokens, most[:, None])

    def predict_seconds(
        self,
        weights: NDArray[np.float32],
        input_tokens: NDArray[np.float64],
        most: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64] | None:
        """Give the seconds, shape (n, H), that a call exceeds with probability 1 - ``CEILING_QUANTILE``.

        ``None`` where no latency has been learned. ``most`` as in ``predict_tokens``.
        """
        if self.latencies is None:
            return None
        if self.lengths is not None:
            return self.latencies.seconds_expected(
                self.lengths, weights, input_tokens, most=most, quantile=CEILING_QUANTILE
            )
        tokens = np.broadcast_to(
            self.predict_tokens(weights, input_tokens, most), (len(weights), len(self.llms))
        )
        return self.latencies.seconds_for(tokens, quantile=CEILING_QUANTILE)

    def predict_costs(
        self, input_tokens: NDArray[np.float64], output_tokens: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Give the expected USD, shape (n, H), with other ``output_tokens``, (H,) or (n, H), where given.

        ``input_tokens`` (n,) as estimated; each LLM bills its own ``predict_inputs`` of them.
        """
        return costs_at(
            self._prices,
            self.predict_inputs(np.asarray(input_tokens, dtype=np.float64)),
            self.output_tokens if output_tokens is None else output_tokens,
        )


def _sum_exactly(weights: NDArray[np.float32], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    if weights.shape[1:] != rates.shape[:1]:
        raise InvalidInputError("weights", f"must have shape (n, {len(rates)}), not {weights.shape}")
    sums: NDArray[np.float64] = weights.astype(np.float64) @ rates
    return sums


def _round_rates(name: str, rates: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    rates = np.asarray(rates, dtype=np.float64)
    if rates.shape != shape:
        raise InvalidInputError(name, f"must have shape {shape} (cells, LLMs), not {rates.shape}")
    if not np.all((rates >= 0) & (rates <= 1)):
        raise InvalidInputError(name, "must be in 0..1, and not NaN")
    rounded: NDArray[np.float64] = np.rint(rates * 2.0**RATE_BITS) * 2.0**-RATE_BITS
    return rounded


def _check_output_tokens(tokens: NDArray[np.float64], n_llms: int) -> None:
    if tokens.shape != (n_llms,):
        raise InvalidInputError("output_tokens", f"must have shape ({n_llms},), not {tokens.shape}")
    if not np.all(np.isfinite(tokens)) or np.any(tokens < 0):
        raise InvalidInputError("output_tokens", "must be finite and at least 0")
