"""What all evidence on LLMs comes to: labels up to a cap, and each source as far as it is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from routing.learning import SourceTrust, combine_counts, estimate_trust
from routing.quality.counts import ErrorCounts
from workers.storage.cell_counts import CellCounts
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


def believe(session: Session, map_version: str, llms: Sequence[str], *, sizes: Sequence[int]) -> Belief:
    """Weigh what labels and each source say of ``llms`` on a map.

    Sources are held against each other, not against labels: of an LLM that changed, labels tell what it was,
    and would discredit those who say so. Every source weighs as its kind, or as it was declared, times its
    trust, and none makes up more of an LLM's evidence than its cap. What was counted before an LLM changed
    weighs less. Equal counts give equal bits.
    """
    n_cells = sum(sizes)
    counts = CellCounts(session)
    labels = _cap_labels(counts.labels(map_version, llms, n_cells=n_cells), sizes[0])
    given = counts.by_source(map_version, llms, n_cells=n_cells, epochs=Watches(session).epochs())
    if not given:
        return Belief(counts=labels, trust={})
    declared = Sources(session).list()
    sources = {name: declared.get(name) or Source(name=name, kind=kind_of(name)) for name in given}
    base = {name: one.base_weight for name, one in sources.items()}
    trust = estimate_trust(given, base, n_groups=sizes[0])
    weights = {name: base[name] * trust[name].trust for name in given}
    caps = {name: one.cap for name, one in sources.items()}
    if labels.labels.any():
        given, weights, caps = given | {_LABELS: labels}, weights | {_LABELS: 1.0}, caps | {_LABELS: 1.0}
    if not any(weight > 0 for weight in weights.values()):
        return Belief(counts=labels, trust=trust)
    return Belief(counts=combine_counts(given, weights, caps=caps), trust=trust)


def _cap_labels(labels: ErrorCounts, first: int) -> ErrorCounts:
    masses = labels.labels[:first].sum(axis=0)
    kept = np.minimum(1.0, LABEL_MASS / np.maximum(masses, LABEL_MASS))
    return ErrorCounts(errors=labels.errors * kept, labels=labels.labels * kept)
