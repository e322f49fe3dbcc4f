"""What all evidence on LLMs comes to: labels up to a cap, and each source as far as it is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from routing.learning import SourceTrust, cap_masses, combine_counts, estimate_trust
from routing.quality.counts import ErrorCounts, Vector
from routing.quality.forgetting import forget_counts, retention_of
from workers.storage.cell_counts import CellCounts, add_spans
from workers.storage.learning_rules import LearningRules
from workers.storage.sources import Source, Sources, kind_of
from workers.storage.watches import Watches

#: The most that labels of an LLM weigh: so many pieces of feedback by people outweigh any number of them.
LABEL_MASS = 1_000.0
#: What labels are called among the sources; no source has an empty name.
_LABELS = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """Counts that rates are made of, (n_cells, n_llms), weighted."""

    counts: ErrorCounts
    #: By source.
    trust: Mapping[str, SourceTrust]


def believe(
    session: Session,
    map_version: str,
    llms: Sequence[str],
    *,
    sizes: Sequence[int],
    half_life: float | None = None,
) -> Belief:
    """Weigh what labels and each source say of ``llms`` on a map.

    Sources are held against each other, not against labels: of an LLM that changed, labels tell what it was,
    and would discredit those who say so. Every source weighs as its kind, or as it was declared, times its
    trust, and none makes up more of an LLM's evidence than its cap. What was counted before an LLM changed
    weighs less.

    Each piece of feedback on an LLM ages all older evidence on it, labels too, by as much as it is believed:
    rates move back to the prior where nothing new comes, and cells that are no longer asked open again. Its
    age is its own, the day of its decision, and not the order in which learners met it; so the result is a
    function of the counts, the same after a refold, and without a source the same as if that had never been.
    Within a day nothing ages; see ``CellCounts.by_span``. ``half_life`` is the declared one unless given.
    Equal counts give equal bits.
    """
    n_cells = sum(sizes)
    counts = CellCounts(session)
    epochs = Watches(session).epochs()
    spans = counts.by_span(map_version, llms, n_cells=n_cells, epochs=epochs)
    declared = Sources(session).list()
    names = {name for span in spans for name in span}
    return weigh_evidence(
        counts.labels(map_version, llms, n_cells=n_cells, epochs=epochs),
        spans,
        {name: declared.get(name) or Source(name=name, kind=kind_of(name)) for name in names},
        n_groups=sizes[0],
        half_life=LearningRules(session).half_life() if half_life is None else half_life,
    )


def weigh_evidence(
    labels: ErrorCounts,
    spans: Sequence[Mapping[str, ErrorCounts]],
    sources: Mapping[str, Source],
    *,
    n_groups: int,
    half_life: float,
) -> Belief:
    """Weigh labels and feedback as ``believe`` does: what it read is given.

    Parameters: ``labels`` (n_cells, n_llms); ``spans``, oldest first, the counts of each source in them, of
    that shape; ``sources`` by name, all that ``spans`` hold; ``n_groups`` cells of the first resolution.
    """
    labels = _cap_labels(labels, n_groups)
    given = add_spans(spans)
    if not given:
        return Belief(counts=labels, trust={})
    base = {name: sources[name].base_weight for name in given}
    trust = estimate_trust(given, base, n_groups=n_groups)
    weights = {name: base[name] * trust[name].trust for name in given}
    caps = {name: sources[name].cap for name in given}
    retention = retention_of(half_life)
    believed = _believed_masses(spans, given, weights, caps, first=n_groups)
    given = {name: _fade(spans, name, believed, retention) for name in given}
    labels = forget_counts(labels, sum(believed), retention=retention)
    if labels.labels.any():
        given, weights, caps = given | {_LABELS: labels}, weights | {_LABELS: 1.0}, caps | {_LABELS: 1.0}
    if not any(weight > 0 for weight in weights.values()):
        return Belief(counts=labels, trust=trust)
    return Belief(counts=combine_counts(given, weights, caps=caps), trust=trust)


def _believed_masses(
    spans: Sequence[Mapping[str, ErrorCounts]],
    given: Mapping[str, ErrorCounts],
    weights: Mapping[str, float],
    caps: Mapping[str, float],
    *,
    first: int,
) -> list[Vector]:
    """Give how much feedback on each LLM is believed of each span, (H,) each, no source above its cap.

    So whoever floods an LLM with feedback drives out what others said no farther than it is believed.
    """
    names = [name for name in given if weights[name] > 0]
    n_llms = next(iter(given.values())).labels.shape[1]
    if not names:
        return [np.zeros(n_llms) for _ in spans]
    masses = np.array([weights[name] * given[name].labels[:first].sum(axis=0) for name in names])
    kept = cap_masses(masses, np.array([caps[name] for name in names]))
    shares = np.divide(kept, masses, out=np.ones_like(kept), where=masses > 0)
    found = []
    for span in spans:
        mass = np.zeros(n_llms)
        for row, name in enumerate(names):
            if name in span:
                mass += shares[row] * weights[name] * span[name].labels[:first].sum(axis=0)
        found.append(mass)
    return found


def _fade(
    spans: Sequence[Mapping[str, ErrorCounts]], name: str, believed: Sequence[Vector], retention: float
) -> ErrorCounts:
    """Add up a source's counts, those of each span aged by what is believed of all later ones."""
    shape = next(iter(spans[0].values())).labels.shape
    total = ErrorCounts(errors=np.zeros(shape), labels=np.zeros(shape))
    for span, mass in zip(spans, believed, strict=True):
        total = forget_counts(total, mass, retention=retention)
        if name in span:
            total += span[name]
    return total


def _cap_labels(labels: ErrorCounts, first: int) -> ErrorCounts:
    masses = labels.labels[:first].sum(axis=0)
    kept = np.minimum(1.0, LABEL_MASS / np.maximum(masses, LABEL_MASS))
    return ErrorCounts(errors=labels.errors * kept, labels=labels.labels * kept)
