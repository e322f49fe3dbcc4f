"""Sources of feedback: of which kind each is, how far it is believed, and what of it is left out."""

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import collate, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from routing.learning import KIND_CAPS, KIND_WEIGHTS, SourceTrust
from workers.errors import UsageError
from workers.storage.learning_tables import FeedbackCountRow, FeedbackSourceRow
from workers.storage.tables import FeedbackRow

SourceKind = Literal["human", "judge", "checker", "implicit"]
_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
#: What second answers are graded under by the installation itself: sources of their own, undeclared too.
JUDGED_SAMPLES, CHECKED_SAMPLES = "judge:sampling", "checker:sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who gives feedback."""

    name: str
    kind: SourceKind
    #: Of its labels, before its trust; ``None`` for that of its kind.
    weight: float | None = None
    #: Pieces taken of it in any hour; ``None`` for all.
    per_hour: int | None = None
    #: What it gave since then counts nothing.
    excluded_since: datetime | None = None
    #: As last estimated: 0 is flagged.
    trust: float = 1.0
    bias: float = 0.0
    #: Its labels that another source's could be held against.
    compared: float = 0.0

    @property
    def base_weight(self) -> float:
        """What a label of it weighs before anything is known of it."""
        return KIND_WEIGHTS[self.kind] if self.weight is None else self.weight

    @property
    def cap(self) -> float:
        """The most of an LLM's evidence that it may make up."""
        return KIND_CAPS[self.kind]

    @property
    def flagged(self) -> bool:
        """Whether its scores were found to be off."""
        return self.trust <= 0


def kind_of(name: str) -> SourceKind:
    """Give the kind that a name says, ``judge`` or ``judge:NAME``; ``implicit``, the least, where none."""
    said = name.partition(":")[0]
    return next((kind for kind in _KINDS if kind == said), "implicit")


def attribute(name: str, known: Container[str]) -> str:
    """Give the source that feedback under a name is of: its own if ``known``, else all such of its kind.

    Names are made up faster than they are told apart: however many are, they make one label of a decision,
    under one cap and one trust.
    """
    return name if name in known or name in (JUDGED_SAMPLES, CHECKED_SAMPLES) else kind_of(name)


class Sources:
    """Sources by name: those that were declared, and one of each kind for all others."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> dict[str, Source]:
        """Give every source that was declared or gave feedback."""
        rows = self._session.scalars(select(FeedbackSourceRow))
        return {
            row.name: Source(
                name=row.name,
                kind=row.kind,  # type: ignore[arg-type]  # a CHECK keeps it one of the four
                weight=row.weight,
                per_hour=row.per_hour,
                excluded_since=row.excluded_since,
                trust=row.trust,
                bias=row.bias,
                compared=row.compared,
            )
            for row in sorted(rows, key=lambda row: row.name)
        }

    def weights(self, names: Iterable[str]) -> dict[str, float]:
        """Give what a label of each weighs: as its kind or as declared, times its trust as last estimated."""
        known = self.list()
        sources = [known.get(name) or Source(name=name, kind=kind_of(name)) for name in sorted(set(names))]
        return {one.name: one.base_weight * one.trust for one in sources}

    def declare(
        self, name: str, *, kind: SourceKind, weight: float | None = None, per_hour: int | None = None
    ) -> None:
        """Say what a source is, anew if it is known; ``InvalidInputError`` for what is out of range."""
        if kind not in _KINDS:
            raise InvalidInputError("kind", f"{kind!r} is none of {', '.join(_KINDS)}")
        if weight is not None and not 0 <= weight < float("inf"):
            raise InvalidInputError("weight", f"must be a number of at least 0, not {weight!r}")
        if per_hour is not None and per_hour < 0:
            raise InvalidInputError("per_hour", f"must be at least 0, not {per_hour!r}")
        values = {"kind": kind, "weight": weight, "per_hour": per_hour}
        added = insert(FeedbackSourceRow).values(name=name, **values)
        self._session.execute(added.on_conflict_do_update(index_elements=["name"], set_=values))

    def meet(self, names: Iterable[str]) -> None:
        """Keep sources of ``attribute`` that gave feedback for the first time, each of its name's kind."""
        rows = [{"name": name, "kind": kind_of(name)} for name in sorted(set(names))]
        if rows:
            self._session.execute(insert(FeedbackSourceRow).values(rows).on_conflict_do_nothing())

    def lock(self, names: Collection[str]) -> None:
        """Let one transaction at a time count what sources gave; the others wait here until it ends."""
        row = FeedbackSourceRow
        query = select(row.name).where(row.name.in_(names)).order_by(collate(row.name, "C"))
        self._session.execute(query.with_for_update()).all()

    def judge(self, found: Mapping[str, SourceTrust]) -> tuple[str, ...]:
        """Keep what is thought of each source; give those that are flagged and were not before."""
        known = self.list()
        flagged = []
        for name, trust in sorted(found.items()):
            held = known.get(name)
            if held is None or (held.trust, held.bias, held.compared) == (
                trust.trust,
                trust.bias,
                trust.compared,
            ):
                continue
            if trust.flagged and not held.flagged:
                flagged.append(name)
            self._set(name, trust=trust.trust, bias=trust.bias, compared=trust.compared)
        return tuple(flagged)

    def exclude(self, name: str, *, since: datetime) -> None:
        """Leave out what a source gave from ``since`` on, and what it gives; ``UsageError`` if unknown."""
        self._set(name, excluded_since=since)

    def include(self, name: str) -> None:
        """Let a source count again; ``UsageError`` if unknown."""
        self._set(name, excluded_since=None)

    def tallies(self) -> dict[str, dict[str, int]]:
        """Count the pieces that are kept of each source, by what became of them."""
        rows = self._session.execute(
            select(FeedbackRow.source, FeedbackRow.disposition, func.count()).group_by(
                FeedbackRow.source, FeedbackRow.disposition
            )
        )
        found: dict[str, dict[str, int]] = {}
        for source, disposition, count in rows:
            found.setdefault(source, {})[disposition] = count
        return found

    def counted(self) -> frozenset[str]:
        """Give the sources that counts hold something of."""
        return frozenset(self._session.scalars(select(FeedbackCountRow.source).distinct()))

    def _set(self, name: str, **values: object) -> None:
        changed = self._session.scalars(
            update(FeedbackSourceRow)
            .where(FeedbackSourceRow.name == name)
            .values(**values)
            .returning(FeedbackSourceRow.name)
            .execution_options(synchronize_session=False)
        )
        if changed.first() is None:
            raise UsageError(
                f"no source is called {name!r}: `uniroute feedback sources` shows those there are, "
                f"and what nobody declared counts as of {kind_of(name)!r}"
            )
