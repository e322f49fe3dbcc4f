"""How long calls will take: a log-normal per LLM around a power of the answer's length."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from routing.costs.lengths import LengthModel
from routing.costs.usage import Matrix
from routing.errors import InvalidInputError

#: Pseudo-replies that hold an LLM's slope, level and spread to those of all LLMs.
_SLOPE_STRENGTH = 50.0
_LEVEL_STRENGTH = 5.0
_SPREAD_STRENGTH = 10.0
#: Seconds per token, in logarithms, of LLMs that answered nothing yet, and their spread: 1 s for 100 tokens.
_PRIOR_SLOPE, _PRIOR_LEVEL, _PRIOR_VARIANCE = 0.7, -3.2, 0.5
_LEAST_VARIANCE = 0.01
#: A sum of squares about the mean is rounding where it is a smaller part of the one about 0.
_ROUNDING = 1e-10
#: Seconds are rounded to 1 / 1024, which hides what the last bit of an exponential owes to the processor.
_STEPS = 1024.0
#: Of a mixture's quantile, in logarithms.
_EXACTNESS = 1e-9


@dataclass(frozen=True, slots=True)
class Timings:
    """Sums over replies by LLM, (H,) each; y = log seconds, z = log(1 + output tokens).

    Timings of disjoint replies add to the timings of all of them, in any order but for rounding.
    """

    replies: Matrix
    #: Sums of y, y squared, z, z squared and y z.
    y: Matrix
    yy: Matrix
    z: Matrix
    zz: Matrix
    yz: Matrix

    def __add__(self, other: "Timings") -> "Timings":
        return Timings(
            self.replies + other.replies,
            self.y + other.y,
            self.yy + other.yy,
            self.z + other.z,
            self.zz + other.zz,
            self.yz + other.yz,
        )


def time_replies(llms: NDArray[np.int64], output_tokens: Matrix, seconds: Matrix, *, n_llms: int) -> Timings:
    """Sum up replies: ``llms`` (n,) columns, output tokens (n,) as billed, seconds (n,) from call to answer.

    Raises ``InvalidInputError`` for shapes that differ, tokens below 0, seconds not above 0, or what is not
    finite.
    """
    n = len(llms)
    if output_tokens.shape != (n,) or not np.all(np.isfinite(output_tokens) & (output_tokens >= 0)):
        raise InvalidInputError("output_tokens", f"must be {n} finite numbers of at least 0")
    if seconds.shape != (n,) or not np.all(np.isfinite(seconds) & (seconds > 0)):
        raise InvalidInputError("seconds", f"must be {n} finite numbers above 0")
    if n and not (llms.min() >= 0 and llms.max() < n_llms):
        raise InvalidInputError("llms", f"must be in 0..{n_llms - 1}")
    y, z = np.log(seconds), np.log1p(output_tokens)

    def total(values: Matrix) -> Matrix:
        summed: Matrix = np.bincount(llms, values, n_llms).astype(np.float64)
        return summed

    return Timings(total(np.ones(n)), total(y), total(y * y), total(z), total(z * z), total(y * z))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyModel:
    """log seconds are normal around ``level_h + slope_h log(1 + output tokens)``. Arrays are read-only.

    A power of the length stands for a fixed part and a part per token: with a slope of 0 every answer takes
    the same time, with 1 twice the tokens take twice the time. Where the logarithm of the length is normal
    too, so is that of the seconds, and their quantiles are closed forms.
    """

    #: Shape (H,).
    levels: Matrix
    slopes: Matrix
    #: Standard deviation of the logarithm at a given length, shape (H,).
    spreads: Matrix

    def __post_init__(self) -> None:
        for name in ("levels", "slopes", "spreads"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != np.shape(self.levels) or not np.all(np.isfinite(values)):
                raise InvalidInputError(name, "must be finite, one per LLM")
            if name != "levels" and np.any(values < 0):
                raise InvalidInputError(name, "must be at least 0")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def seconds_for(self, output_tokens: Matrix, *, quantile: float = 0.95) -> Matrix:
        """Give the seconds that answers of this length exceed with probability 1 - ``quantile``.

        ``output_tokens`` has shape (H,) or (n, H), and so has the result.
        """
        logs = self.levels + self.slopes * np.log1p(output_tokens)
        return _round_seconds(np.exp(logs + _normal_quantile(quantile) * self.spreads))

    def seconds_expected(
        self,
        lengths: LengthModel,
        weights: NDArray[np.float32],
        input_tokens: Matrix,
        *,
        most: Matrix | None = None,
        quantile: float = 0.95,
    ) -> Matrix:
        """Give the seconds, shape (n, H), that a call exceeds with probability 1 - ``quantile``.

        The length of the answer is as uncertain as ``lengths`` has it. With ``most`` (n,) tokens, ``inf`` for
        no limit, no more seconds are given than an answer of so many needs.
        """
        logs = self.levels + self.slopes * lengths.mean_logs(weights, input_tokens)
        seconds = np.exp(logs + _normal_quantile(quantile) * self.total_spreads(lengths))
        if most is not None:
            capped = self.seconds_for(np.broadcast_to(most[:, None], seconds.shape), quantile=quantile)
            seconds = np.minimum(seconds, capped)
        return _round_seconds(seconds)

    def total_spreads(self, lengths: LengthModel | None) -> Matrix:
        """Give the standard deviations of log seconds, shape (H,), the length as uncertain as ``lengths``."""
        if lengths is None:
            return self.spreads
        spreads: Matrix = np.sqrt(self.spreads**2 + (self.slopes * lengths.spreads) ** 2)
        return spreads


def mixture_quantile(seconds: Matrix, spreads: Matrix, *, quantile: float = 0.95) -> float:
    """Give the seconds that a share of 1 - ``quantile`` of m calls together exceed, each a log-normal.

    ``seconds`` (m,) are what each call exceeds with probability 1 - ``quantile``, ``spreads`` (m,) the
    standard deviations of its logarithm. The result lies between the least and the greatest of ``seconds``,
    and differs from their mean: slow calls make up most of the tail. NaN where there is no call. Solves
    ``mean_i Phi((log x - centre_i) / spread_i) = quantile`` by bisection, to 1 in 10^9.
    """
    z = _normal_quantile(quantile)
    if len(seconds) == 0:
        return float("nan")
    spreads = np.maximum(spreads, 1e-9)
    logs = np.log(np.maximum(seconds, 1e-9))
    centres = logs - z * spreads
    low, high = float(logs.min()), float(logs.max())
    while high - low > _EXACTNESS:
        middle = (low + high) / 2
        if float(ndtr((middle - centres) / spreads).mean()) < quantile:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def fit_latencies(timings: Timings) -> LatencyModel:
    """Fit from the seconds of replies; closed form.

    The slope is each LLM's regression of log seconds on log length, held to that of all LLMs and kept in
    0..2; the level its mean, held to that of all LLMs; the spread its residual deviation, held likewise. An
    LLM without replies is taken for the pool's mean, with the pool's scatter of levels in its spread, and a
    pool without any for 1 s per 100 tokens.
    """
    n = timings.replies
    mean_y, mean_z = _share(timings.y, n), _share(timings.z, n)
    zz, yz, yy = timings.zz - n * mean_z**2, timings.yz - n * mean_y * mean_z, timings.yy - n * mean_y**2
    scatters = zz > _ROUNDING * timings.zz  # answers of one length tell no slope
    zz, yz = zz * scatters, yz * scatters
    total = float(zz.sum())
    held = _SLOPE_STRENGTH * total / max(float(n.sum()), 1.0)
    common = (float(yz.sum()) + _PRIOR_SLOPE) / (total + 1.0)
    slopes = np.clip((yz + held * common) / np.maximum(zz + held, 1e-12), 0.0, 2.0)
    slopes = np.where(n > 0, slopes, np.clip(common, 0.0, 2.0))
    residual = mean_y - slopes * mean_z
    pool_level = (float((n * residual).sum()) + _PRIOR_LEVEL) / (float(n.sum()) + 1.0)
    levels = (n * residual + _LEVEL_STRENGTH * pool_level) / (n + _LEVEL_STRENGTH)
    squares = np.maximum(yy - 2 * slopes * yz + slopes**2 * zz, 0.0)
    freedom = np.maximum(n - 1, 0.0)
    pool_variance = (float(squares.sum()) + _SPREAD_STRENGTH * _PRIOR_VARIANCE) / (
        float(freedom.sum()) + _SPREAD_STRENGTH
    )
    variances = (squares + _SPREAD_STRENGTH * pool_variance) / (freedom + _SPREAD_STRENGTH)
    known = residual[n > 0]
    between = float(known.var()) if len(known) > 1 else _PRIOR_VARIANCE
    variances += between / (n + 1.0)
    return LatencyModel(levels=levels, slopes=slopes, spreads=np.sqrt(np.maximum(variances, _LEAST_VARIANCE)))


def _share(sums: Matrix, replies: Matrix) -> Matrix:
    return np.divide(sums, replies, out=np.zeros_like(sums), where=replies > 0)


def _normal_quantile(quantile: float) -> float:
    if not 0 < quantile < 1:
        raise InvalidInputError("quantile", f"must be between 0 and 1, not {quantile!r}")
    return NormalDist().inv_cdf(quantile)


def _round_seconds(seconds: Matrix) -> Matrix:
    rounded: Matrix = np.ceil(seconds * _STEPS) / _STEPS
    return rounded
