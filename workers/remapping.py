"""A new cluster map beside the one in force: what is known is carried over, compared, and kept or dropped."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from routing.clusters import split_observation
from routing.embedders import FloatMatrix
from routing.evaluation.maps import MapComparison, ScoredPrompts, compare_maps
from workers import messages
from workers.errors import PoisonError, UsageError
from workers.learner.reading import name_prompt
from workers.messages import ChatRequest, FeedbackEvent
from workers.reading import read_all
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts, lock_counting
from workers.storage.cluster_maps import ClusterMaps, FittedMap
from workers.storage.engine import transaction
from workers.storage.journal import Journal
from workers.storage.learning_tables import EarlierLabelsRow, FeedbackCountRow, PromptMixRow
from workers.storage.placements import ElsewherePiece, Placements
from workers.storage.tables import ClusterMapRow, ErrorCountRow, ErrorRateVersionRow
from workers.topics import MAX_RECORD_BYTES, Topics


def stored_prompts(settings: Settings) -> dict[str, str]:
    """Give the text of every prompt that Kafka still holds, by prompt id, in an order that says nothing.

    Those are the prompts of the ingest topic (7 days) and those that feedback spelled out (30 days). Postgres
    keeps no text, so what is older, and the prompts of label files, are not among them.
    """
    topics = Topics(settings.topic_prefix)
    found: dict[str, str] = {}
    for record in read_all(settings, [topics.prompts, topics.feedback]):
        try:
            if record.topic == topics.feedback:
                text = messages.decode(record.value, FeedbackEvent, max_bytes=MAX_RECORD_BYTES).prompt
                prompt_id = name_prompt(text)
            else:
                body = messages.decode(record.value, ChatRequest, max_bytes=MAX_RECORD_BYTES)
                prompt_id, text = (record.key or b"").decode(), body.prompt_text
        except (PoisonError, UnicodeDecodeError):
            continue  # it is a dead letter, which says why
        if prompt_id and text:
            found[prompt_id] = text
    return {name: found[name] for name in sorted(found, key=_shuffle)}


def _shuffle(prompt_id: str) -> bytes:
    return hashlib.sha256(prompt_id.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What of the feedback that came with other maps stands on a map now."""

    #: Pieces, of ``kept`` that came with other maps.
    pieces: int
    kept: int
    #: Against the map in force; ``None`` where that is the same, or too few prompts have feedback.
    comparison: MapComparison | None


def carry_feedback(engine: Engine, version: str, prompts: Mapping[str, FloatMatrix]) -> Carried:
    """Place feedback of other maps on a map by the embeddings (d,) of its ``prompts``, by prompt id; compare.

    The map's counts are folded anew; those of other maps stay. What is carried already stays as it is, so
    this may be done again for feedback that has come since, on decisions that were in flight, say. Pieces
    whose prompt is not among ``prompts`` are not carried. ``UsageError`` for a map that is not kept.
    """
    with transaction(engine) as session:
        lock_counting(session, alone=True)
        fitted = _get(session, version)
        placements = Placements(session)
        elsewhere = list(placements.pieces(version))
        known = [piece for piece in elsewhere if piece.prompt_id in prompts]
        if known:
            placed = fitted.cluster_map.place(np.stack([prompts[piece.prompt_id] for piece in known]))
            placements.add(
                version,
                {
                    piece.feedback_id: (
                        tuple(cells.tolist()),
                        split_observation(weights, cells, fitted.cluster_map.sizes),
                    )
                    for piece, weights, cells in zip(known, placed.weights, placed.cells, strict=True)
                },
            )
        CellCounts(session).refold(map_version=version)
        carried, active = placements.number(version), ClusterMaps(session).active()
        Journal(session).write("feedback carried", version, pieces=carried, of=len(elsewhere))
    comparison = None
    if active is not None and active.cluster_map.version != version:
        comparison = _compare(active, fitted, [piece for piece in known if piece.counted], prompts)
    return Carried(pieces=carried, kept=len(elsewhere), comparison=comparison)


def _compare(
    old: FittedMap, new: FittedMap, pieces: list[ElsewherePiece], prompts: Mapping[str, FloatMatrix]
) -> MapComparison | None:
    """Compare two maps of one embedder on the same pieces."""
    order = [name for name in prompts if name in {piece.prompt_id for piece in pieces}]
    if len(order) < 2 or old.cluster_map.fingerprint != new.cluster_map.fingerprint:  # noqa: PLR2004 - an interval
        return None
    rows = {name: row for row, name in enumerate(order)}
    llms = sorted({piece.llm for piece in pieces})
    scored = ScoredPrompts(
        embeddings=np.stack([prompts[name] for name in order]),
        rows=np.array([rows[piece.prompt_id] for piece in pieces]),
        llms=np.array([llms.index(piece.llm) for piece in pieces]),
        errors=np.array([1.0 - piece.score for piece in pieces]),
        n_llms=len(llms),
    )
    return compare_maps((old.cluster_map, old.prior), (new.cluster_map, new.prior), scored)


def drop_map(engine: Engine, version: str) -> None:
    """Delete a map that never was in force, with what was carried over to it.

    ``UsageError`` for one that is not kept, is in force, or has error rates: decisions may have been made
    from these, and are made again by them.
    """
    with transaction(engine) as session:
        lock_counting(session, alone=True)
        _get(session, version)
        rated = session.scalar(
            select(ErrorRateVersionRow.version).where(ErrorRateVersionRow.map_version == version).limit(1)
        )
        if rated is not None or ClusterMaps(session).active_version() == version:
            raise UsageError(f"cluster map {version} is or was in force: decisions made by it need it")
        Placements(session).forget(version)
        for row in (FeedbackCountRow, EarlierLabelsRow, ErrorCountRow, PromptMixRow):
            session.execute(delete(row).where(row.map_version == version))
        session.execute(delete(ClusterMapRow).where(ClusterMapRow.version == version))
        Journal(session).write("map dropped", version)


def _get(session: Session, version: str) -> FittedMap:
    fitted = ClusterMaps(session).get(version)
    if fitted is None:
        raise UsageError(f"there is no cluster map {version}: `uniroute map list` shows those there are")
    return fitted
