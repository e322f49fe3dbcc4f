"""What the detector of changes remembers of each LLM."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

import numpy as np
from sqlalchemy import collate, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing.learning import DriftState, Seen, Watch
from workers.storage.learning_tables import LLMWatchRow


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWatch:
    """How an LLM stands, and how often it was noticed to change."""

    watch: Watch = field(default_factory=Watch)
    epoch: int = 0
    #: When it last did.
    changed_at: datetime | None = None


class Watches:
    """Watches by LLM; one without a row is steady, in its epoch 0."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> dict[str, KeptWatch]:
        """Give every watch that is kept."""
        return {row.llm: _read(row) for row in self._session.scalars(select(LLMWatchRow))}

    def epochs(self) -> dict[str, int]:
        """Give how often each LLM was noticed to change, of those that were."""
        rows = self._session.execute(select(LLMWatchRow.llm, LLMWatchRow.epoch).where(LLMWatchRow.epoch > 0))
        return {llm: epoch for llm, epoch in rows}  # noqa: C416 (rows are no pairs to the type checker)

    def changed_since(self, moment: datetime) -> bool:
        """Tell whether any LLM was noticed to change at ``moment`` or later."""
        query = select(func.count()).where(LLMWatchRow.changed_at >= moment)
        return bool(self._session.scalar(query))

    def lock(self, llms: Collection[str]) -> dict[str, KeptWatch]:
        """Give the watches of registered LLMs, which nobody else moves until this transaction ends.

        Rows are locked in one order, so that learners side by side never deadlock.
        """
        names = sorted(llms)
        self._session.execute(
            insert(LLMWatchRow).values([{"llm": name} for name in names]).on_conflict_do_nothing()
        )
        rows = self._session.scalars(
            select(LLMWatchRow)
            .where(LLMWatchRow.llm.in_(names))
            .order_by(collate(LLMWatchRow.llm, "C"))
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        return {row.llm: _read(row) for row in rows}

    def keep(self, watches: Mapping[str, KeptWatch], *, changed: Collection[str] = ()) -> None:
        """Write watches that were locked; those of ``changed`` say that they changed now."""
        if not watches:
            return
        rows = [
            {
                "llm": llm,
                "epoch": kept.epoch,
                "standing": kept.watch.standing,
                "remaining": kept.watch.remaining,
                "recent": list(chain.from_iterable(kept.watch.state.recent)),
                "worse": kept.watch.state.worse,
                "better": kept.watch.state.better,
                "feedbacks": kept.watch.state.feedbacks,
                "changed_at": func.now() if llm in changed else kept.changed_at,
            }
            for llm, kept in sorted(watches.items())
        ]
        added = insert(LLMWatchRow).values(rows)
        columns = [name for name in rows[0] if name != "llm"]
        self._session.execute(
            added.on_conflict_do_update(
                index_elements=["llm"], set_={name: added.excluded[name] for name in columns}
            )
        )

    def restart(self, llms: Collection[str]) -> tuple[str, ...]:
        """Begin anew with LLMs, as if nothing had been seen of them; give those noticed to have changed."""
        changed = sorted(llm for llm, epoch in self.epochs().items() if llm in llms)
        row = LLMWatchRow
        self._session.execute(
            delete(row).where(row.llm.in_(llms)).execution_options(synchronize_session="fetch")
        )
        return tuple(changed)

    def forget(self, llm: str) -> None:
        """Begin anew with an LLM, whose name another has taken."""
        row = self._session.get(LLMWatchRow, llm)
        if row is not None:
            self._session.delete(row)
            self._session.flush()


def _read(row: LLMWatchRow) -> KeptWatch:
    state = DriftState(
        recent=tuple(Seen(*one) for one in np.reshape(row.recent, (-1, len(Seen._fields))).tolist()),
        worse=row.worse,
        better=row.better,
        feedbacks=row.feedbacks,
    )
    return KeptWatch(
        watch=Watch(state=state, standing=row.standing, remaining=row.remaining),  # type: ignore[arg-type]
        epoch=row.epoch,
        changed_at=row.changed_at,
    )
