"""How far each source of feedback is believed: by its kind, by what the others say, and up to a cap."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.special import ndtri

from routing.errors import InvalidInputError
from routing.quality.counts import ErrorCounts, Matrix, Vector

#: What a label of each kind of source weighs before anything is known of the source itself.
KIND_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"human": 1.0, "checker": 1.0, "judge": 0.5, "implicit": 0.2}
)
#: The most of an LLM's evidence that one source of a kind may make up.
KIND_CAPS: Mapping[str, float] = MappingProxyType(
    {"human": 1.0, "checker": 1.0, "judge": 0.5, "implicit": 0.3}
)
#: No rate is believed to scatter less than this.
_LEAST_SPREAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRule:
    """When a source is held to be off beyond chance.

    A source's bias is the root mean square, over cells and LLMs, of its mean score minus the others'. Its
    trust falls straight from 1, where the bias may be chance, to 0 where even the lower end of its one-sided
    interval reaches ``tolerance``: then it is flagged.
    """

    #: Bias, in error, at which a source is worth nothing.
    tolerance: float = 0.15
    #: Of the one-sided interval of the bias.
    confidence: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 1:
            raise InvalidInputError("tolerance", f"must be in (0, 1], not {self.tolerance!r}")
        if not 0.5 < self.confidence < 1:  # noqa: PLR2004 - half is no confidence
            raise InvalidInputError("confidence", f"must be in (.5, 1), not {self.confidence!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTrust:
    """What is thought of one source."""

    #: Multiplies the weight of its kind, in [0, 1]; 0 where it is flagged.
    trust: float
    #: Its bias as estimated, and the lower end of the interval; 0 where chance explains all.
    bias: float
    least_bias: float
    #: Its labels that another source's could be held against.
    compared: float

    @property
    def flagged(self) -> bool:
        """Whether its scores are off by the tolerance or more, beyond chance."""
        return self.trust <= 0


def estimate_trust(
    counts: Mapping[str, ErrorCounts],
    weights: Mapping[str, float],
    *,
    n_groups: int,
    anchors: frozenset[str] = frozenset(),
    rule: TrustRule | None = None,
) -> dict[str, SourceTrust]:
    """Hold each source against all others, cell by cell and LLM by LLM.

    Parameters: ``counts`` per source, unweighted, of one map; ``weights`` per source, of its kind;
    ``n_groups`` the cells of the map's first resolution, whose rows are compared. ``anchors`` are never
    doubted: labels of our own. The source that is furthest off is flagged first and then left out of what the
    others are held against; so a liar discredits itself before those it contradicts. Among sources of equal
    weight that works while the liars are the fewer. A source that nothing can be held against keeps trust 1.
    """
    rule = rule or TrustRule()
    believed = {name: weights[name] for name in sorted(counts)}
    judged: dict[str, SourceTrust] = {}
    while True:
        found = {name: _judge(name, counts, believed, n_groups, rule) for name in believed}
        found |= {name: _exempt(found[name]) for name in anchors & found.keys()}
        flagged = [name for name in found if found[name].flagged]
        if not flagged:
            return dict(sorted((judged | found).items()))
        worst = max(flagged, key=lambda name: (found[name].least_bias, name))
        judged[worst] = found[worst]
        del believed[worst]


def combine_counts(
    counts: Mapping[str, ErrorCounts],
    weights: Mapping[str, float],
    *,
    caps: Mapping[str, float] | None = None,
) -> ErrorCounts:
    """Add up the sources' counts, each times its weight, no source above its cap of any LLM's evidence.

    Sources are added in the order of their names, so equal inputs give equal bits; one of weight 0 is not
    added at all, so that leaving it out changes no bit. ``caps`` are shares in (0, 1], 1 where omitted.
    ``InvalidInputError`` without a source that has weight.
    """
    names = [name for name in sorted(counts) if weights[name] > 0]
    if not names:
        raise InvalidInputError("weights", "no source has any weight")
    masses = np.array([weights[name] * counts[name].labels.sum(axis=0) for name in names])
    limits = np.array([1.0 if caps is None else caps.get(name, 1.0) for name in names])
    kept = cap_masses(masses, limits)
    errors, labels = np.zeros((2, *counts[names[0]].labels.shape))
    for row, name in enumerate(names):
        factor = weights[name] * np.divide(
            kept[row], masses[row], out=np.ones_like(kept[row]), where=masses[row] > 0
        )
        errors += counts[name].errors * factor
        labels += counts[name].labels * factor
    return ErrorCounts(errors=errors, labels=labels)


def cap_masses(masses: Matrix, caps: Vector) -> Matrix:
    """Bring each source's mass down to its cap, a share of the sum that is left; per LLM.

    Parameters: ``masses`` (S, H) at least 0, ``caps`` (S,) in (0, 1]. The caps of the sources that an LLM has
    are scaled up where they sum to less than 1: someone must make up the whole. (100, 10) with caps (.5, 1)
    becomes (10, 10).
    """
    if not np.all((caps > 0) & (caps <= 1)) or caps.shape != masses.shape[:1]:
        raise InvalidInputError("caps", "one share in (0, 1] per source is needed")
    kept = masses.astype(np.float64, copy=True)
    for column in range(masses.shape[1]):
        there = np.flatnonzero(masses[:, column] > 0)
        if there.size:
            kept[there, column] = _cap_one(masses[there, column], caps[there])
    return kept


def _cap_one(masses: Vector, caps: Vector) -> Vector:
    """Cap the masses of one LLM, all above 0: the largest total T with T = sum of min(mass, cap * T)."""
    shares = caps / min(1.0, caps.sum())
    ratio = masses / shares
    # The first to be capped are those of the greatest mass per share.
    order = np.argsort(-ratio, kind="stable")
    total = float(masses.sum())
    for capped in range(1, len(order) + 1):
        if ratio[order[capped - 1]] <= total * (1 + 1e-12):
            break
        room = 1.0 - float(shares[order[:capped]].sum())
        if room <= 1e-12:  # noqa: PLR2004 - rounding: the capped make up the whole
            total = float(ratio[order[capped - 1]])
            break
        total = float(masses[order[capped:]].sum()) / room
    kept: Vector = np.minimum(masses, shares * total)
    return kept


def _judge(
    name: str,
    counts: Mapping[str, ErrorCounts],
    believed: Mapping[str, float],
    n_groups: int,
    rule: TrustRule,
) -> SourceTrust:
    """Compare one source with the others' weighted mean in every group: a two-sample chi-square."""
    mine = counts[name]
    wrong, n = mine.errors[:n_groups], mine.labels[:n_groups]
    others_wrong, others_n, others_squares = np.zeros((3, *n.shape))
    for other, weight in believed.items():
        if other != name:
            others_wrong += weight * counts[other].errors[:n_groups]
            others_n += weight * counts[other].labels[:n_groups]
            others_squares += weight**2 * counts[other].labels[:n_groups]
    both = (n > 0) & (others_n > 0)
    if not both.any():
        return SourceTrust(trust=1.0, bias=0.0, least_bias=0.0, compared=0.0)
    n, m, size = n[both], others_n[both], others_n[both] ** 2 / others_squares[both]
    difference = wrong[both] / n - others_wrong[both] / m
    # Smoothed, and pooled: under the hypothesis that both see the same rate.
    rate = (wrong[both] + size * others_wrong[both] / m + 1) / (n + size + 2)
    precision = 1 / (np.maximum(rate * (1 - rate), _LEAST_SPREAD) * (1 / n + 1 / size))
    bias, least = _bias(float(np.sum(difference**2 * precision)), len(n), float(precision.sum()), rule)
    trust = max(0.0, 1.0 - least / rule.tolerance)
    return SourceTrust(trust=trust, bias=bias, least_bias=least, compared=float(n.sum()))


def _bias(chi2: float, groups: int, precision: float, rule: TrustRule) -> tuple[float, float]:
    """Give the root mean square bias behind a noncentral chi-square, and its lower confidence end.

    With noncentrality u the statistic has mean G + u and variance 2 G + 4 u; the lower end is the u whose
    mean lies z deviations below what was found.
    """
    excess, z = chi2 - groups, float(ndtri(rule.confidence))
    least = excess + 2 * z**2 - z * float(np.sqrt(max(4 * excess + 4 * z**2 + 2 * groups, 0.0)))
    if excess <= 0:
        least = 0.0
    return float(np.sqrt(max(excess, 0.0) / precision)), float(np.sqrt(max(least, 0.0) / precision))


def _exempt(found: SourceTrust) -> SourceTrust:
    return SourceTrust(trust=1.0, bias=found.bias, least_bias=found.least_bias, compared=found.compared)
