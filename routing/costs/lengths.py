"""How long answers will be: a log-normal per LLM and cluster, with the prompt's own length as regressor."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from routing.costs.usage import Matrix, Usage
from routing.errors import InvalidInputError

#: Offsets are multiples of 2**-25 within +-8 and weights of 2**-24, so that their products sum exactly
#: (``snapshot``).
_OFFSET_BITS = 25
_GREATEST_OFFSET = 8.0
#: Tokens are rounded to 1 / 1024, which hides what the last bit of an exponential owes to the processor.
_TOKEN_STEPS = 1024.0
#: Pseudo-replies that hold an LLM's slope to that of all LLMs, and the range of those that hold a level or a
#: cell.
_SLOPE_STRENGTH = 50.0
_STRENGTHS = (1.0, 200.0)
#: Pseudo-replies that hold the smear, and those that hold a spread to that of all LLMs.
_SMEAR_STRENGTH = 20.0
_SPREAD_STRENGTH = 10.0
#: A sum of squares about the mean is rounding where it is a smaller part of the one about 0.
_ROUNDING = 1e-10
#: No spread is believed to be smaller: answers are never all of one length for long.
_LEAST_VARIANCE = 0.01
#: log(1 + input tokens) of a prompt of 500 tokens.
_TYPICAL_LOG_INPUT = 6.216606101085837


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LengthModel:
    """log(1 + tokens of an answer) is normal around ``level_h + slope_h log(1 + input) + offset``.

    The offset is the mean of the cells' offsets by the prompt's weights. Input is what the LLM bills of the
    prompt: ``input_ratios`` times what was estimated, which is what the methods are given. Arrays are
    read-only.
    """

    #: Shape (H,).
    levels: Matrix
    slopes: Matrix
    #: Shape (C, H).
    offsets: Matrix
    #: Standard deviation of the logarithm, shape (H,).
    spreads: Matrix
    #: Mean of tokens over the exponential of the mean logarithm, shape (H,): about exp(spread^2 / 2).
    smears: Matrix
    #: Mean log(1 + input) of the replies that it was fitted from.
    log_input: float = _TYPICAL_LOG_INPUT
    #: Input tokens as billed over those estimated before the call, shape (H,); one number stands for all.
    input_ratios: Matrix = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        for name in ("levels", "slopes", "offsets", "spreads", "smears"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if not np.all(np.isfinite(values)):
                raise InvalidInputError(name, "must be finite")
            if name == "offsets":
                values = np.clip(values, -_GREATEST_OFFSET, _GREATEST_OFFSET)
                values = np.rint(values * 2.0**_OFFSET_BITS) * 2.0**-_OFFSET_BITS
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        object.__setattr__(self, "log_input", float(self.log_input))
        ratios = np.broadcast_to(np.asarray(self.input_ratios, dtype=np.float64), self.levels.shape).copy()
        if not np.all(np.isfinite(ratios) & (ratios > 0)):
            raise InvalidInputError("input_ratios", "must be finite and above 0")
        ratios.setflags(write=False)
        object.__setattr__(self, "input_ratios", ratios)

    def billed_tokens(self, input_tokens: Matrix) -> Matrix:
        """Give the input tokens that each LLM bills for prompts of ``input_tokens`` (n,), shape (n, H)."""
        return np.multiply.outer(np.asarray(input_tokens, dtype=np.float64), self.input_ratios)

    def expected_tokens(
        self, weights: NDArray[np.float32], input_tokens: Matrix, *, most: Matrix | None = None
    ) -> Matrix:
        """Give the mean tokens of each LLM's answer to each prompt, shape (n, H).

        ``weights`` (n, C) as the map gave them, ``input_tokens`` (n,). With ``most`` (n,), ``inf`` for no
        limit, it is the mean of min(tokens, most), which is less than the lesser of the two.
        """
        means = self.smears * np.exp(self.mean_logs(weights, input_tokens))
        if most is not None:
            means = self._capped(means, np.maximum(most, 1.0)[:, None])
        return _round_tokens(means)

    def quantile_tokens(
        self, weights: NDArray[np.float32], input_tokens: Matrix, *, quantile: float = 0.95
    ) -> Matrix:
        """Give the tokens that an answer exceeds with probability 1 - ``quantile``, shape (n, H)."""
        if not 0 < quantile < 1:
            raise InvalidInputError("quantile", f"must be between 0 and 1, not {quantile!r}")
        means = self.mean_logs(weights, input_tokens)
        return _round_tokens(np.exp(means + NormalDist().inv_cdf(quantile) * self.spreads) - 1)

    def mean_logs(self, weights: NDArray[np.float32], input_tokens: Matrix) -> Matrix:
        """Give the mean of log(1 + tokens), shape (n, H), around which answers scatter by ``spreads``."""
        offsets = weights.astype(np.float64) @ self.offsets
        means: Matrix = offsets + self.slopes * np.log1p(self.billed_tokens(input_tokens))
        means += self.levels
        return means

    def _capped(self, means: Matrix, most: Matrix) -> Matrix:
        """E[min(T, m)] of a log-normal with these means and the model's spreads."""
        variance = self.spreads**2
        centre = np.log(np.maximum(means, 1e-9)) - variance / 2
        with np.errstate(invalid="ignore"):
            distance = (np.log(most) - centre) / self.spreads
            capped = means * ndtr(distance - self.spreads) + most * ndtr(-distance)
        return np.where(np.isinf(most), means, np.minimum(capped, most))


def fit_lengths(usage: Usage, *, prior_tokens: Matrix, sizes: Sequence[int]) -> LengthModel:
    """Fit from the usage of replies, shape (C, H); closed form, so that a refit takes milliseconds.

    The slope is each LLM's regression of log output on log input within cells, held to that of all LLMs; the
    level its mean, held to the level that ``prior_tokens`` (H,) and all LLMs suggest; a cell's offset its
    mean residual, shrunk by its empirical-Bayes strength. The smear makes predicted tokens sum to the actual
    ones (Duan 1983), so USD come out right where the logarithms are not quite normal. An LLM without replies
    gets its prior tokens, cells without replies no offset. ``sizes`` are the cells of each resolution, whose
    sum is C; each resolution is fitted alone, and the prompts' weights average over them.
    """
    if usage.replies.shape != (sum(sizes), len(prior_tokens)):
        raise InvalidInputError(
            "usage", f"must have shape ({sum(sizes)}, {len(prior_tokens)}), not {usage.replies.shape}"
        )
    first = slice(0, sizes[0])
    replies = usage.replies[first].sum(axis=0)
    slopes = _fit_slopes(usage)
    mean_z = _share(usage.z[first].sum(axis=0), replies)
    residual = _share(usage.y[first].sum(axis=0), replies) - slopes * mean_z
    variances = _residual_variance(usage, slopes)
    levels = _fit_levels(
        residual, replies, variances, np.log1p(prior_tokens) - variances / 2 - slopes * _overall(usage)
    )
    offsets = np.concatenate(
        [
            _fit_offsets(usage, slice(end - size, end), slopes, levels, variances)
            for size, end in zip(sizes, np.cumsum(sizes), strict=True)
        ]
    )
    model = LengthModel(
        levels=levels,
        slopes=slopes,
        offsets=offsets,
        spreads=np.sqrt(variances),
        smears=np.exp(variances / 2),
        log_input=_overall(usage),
    )
    return replace(model, smears=_fit_smears(usage, model, first))


def calibration(actual: Matrix, predicted: Matrix) -> Matrix:
    """Give sum(actual) / sum(predicted) per LLM, shape (H,): 1 is right, NaN where nothing was used."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Matrix = np.where(actual > 0, actual / predicted, np.nan)
    return ratio


def _overall(usage: Usage) -> float:
    """Give the mean log input of all replies."""
    replies = float(usage.replies.sum())
    return float(usage.z.sum()) / replies if replies else 0.0


def _share(sums: Matrix, replies: Matrix) -> Matrix:
    return np.divide(sums, replies, out=np.zeros_like(sums), where=replies > 0)


def _within(usage: Usage) -> tuple[Matrix, Matrix, Matrix]:
    """Give the sums of squares within cells, (H,) each: of z, of z with y, of y.

    Where prompts of a cell are all of one length, z scatters by nothing but rounding, and tells no slope.
    """
    zz = usage.zz - _share(usage.z**2, usage.replies)
    yz = usage.yz - _share(usage.y * usage.z, usage.replies)
    yy = usage.yy - _share(usage.y**2, usage.replies)
    scatters = zz > _ROUNDING * usage.zz
    return (zz * scatters).sum(axis=0), (yz * scatters).sum(axis=0), yy.sum(axis=0)


def _fit_slopes(usage: Usage) -> Matrix:
    zz, yz, _ = _within(usage)
    total = zz.sum()
    common = yz.sum() / total if total > 0 else 0.0
    strength = _SLOPE_STRENGTH * (total / max(float(usage.replies.sum()), 1.0))
    slopes: Matrix = (yz + strength * common) / np.maximum(zz + strength, 1e-12)
    np.clip(slopes, -2.0, 2.0, out=slopes)
    return slopes


def _residual_variance(usage: Usage, slopes: Matrix) -> Matrix:
    """Variance within cells around the slope, (H,), held to that of all LLMs."""
    zz, yz, yy = _within(usage)
    squares = np.maximum(yy - 2 * slopes * yz + slopes**2 * zz, 0)
    freedom = np.maximum(usage.replies - 1, 0).sum(axis=0)
    common = squares.sum() / freedom.sum() if freedom.sum() > 0 else 1.0
    variances: Matrix = np.maximum(
        (squares + _SPREAD_STRENGTH * common) / (freedom + _SPREAD_STRENGTH), _LEAST_VARIANCE
    )
    return variances


def _fit_levels(residual: Matrix, replies: Matrix, variances: Matrix, prior: Matrix) -> Matrix:
    """Hold each LLM's level to its prior, the harder the nearer the LLMs seen were to theirs."""
    known = replies > 0
    gaps = (residual - prior)[known]
    between = max(float(gaps.var()) if len(gaps) > 1 else 0.25, 0.01)
    strength = np.clip(variances / between, *_STRENGTHS)
    held: Matrix = (replies * residual + strength * prior) / (replies + strength)
    return np.where(known, held, prior)


def _fit_offsets(usage: Usage, cells: slice, slopes: Matrix, levels: Matrix, variances: Matrix) -> Matrix:
    """Shrink each cell's mean residual, (size, H), by the strength that the scatter of cells shows."""
    replies = usage.replies[cells]
    means = _share(usage.y[cells], replies) - slopes * _share(usage.z[cells], replies) - levels
    means = np.where(replies > 0, means, 0.0)
    total, n_cells = replies.sum(axis=0), (replies > 0).sum(axis=0)
    scatter = (replies * means**2).sum(axis=0) - (n_cells - 1) * variances
    freedom = total - _share((replies**2).sum(axis=0), total)
    between = np.divide(scatter, freedom, out=np.zeros_like(total), where=freedom > 0)
    strength = np.clip(variances / np.maximum(between, 1e-9), *_STRENGTHS)
    offsets: Matrix = replies * means / (replies + strength)
    return offsets


def _fit_smears(usage: Usage, model: LengthModel, cells: slice) -> Matrix:
    """Give actual tokens over the exponentials of the means, held to the log-normal's own ratio."""
    replies = usage.replies[cells]
    z = _share(usage.z[cells], replies)
    z_variance = np.maximum(_share(usage.zz[cells], replies) - z**2, 0)
    means = model.levels + model.slopes * z + model.offsets[cells] + model.slopes**2 * z_variance / 2
    predicted = (replies * np.exp(means)).sum(axis=0)
    actual = usage.tokens[cells].sum(axis=0)
    held = _SMEAR_STRENGTH * _share(predicted, replies.sum(axis=0))
    smears: Matrix = model.smears.copy()
    np.divide(actual + held * model.smears, predicted + held, out=smears, where=predicted + held > 0)
    return smears


def _round_tokens(tokens: Matrix) -> Matrix:
    rounded: Matrix = np.rint(np.maximum(tokens, 0) * _TOKEN_STEPS) / _TOKEN_STEPS
    return rounded
