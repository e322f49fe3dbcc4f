"""Answers that callers let be kept, and the claims of executors to make them."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from workers.storage.tables import CachedAnswerRow

#: Rows deleted at a time, long after they expired.
_PRUNED = 100
_PRUNE_AFTER = timedelta(hours=1)


class CachedAnswers:
    """Answers by a key of 32 bytes. Times are the database's, so that all executors agree."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, key: bytes) -> bytes | None:
        """Give an answer that has not expired."""
        return self._session.scalar(
            select(CachedAnswerRow.answer).where(
                CachedAnswerRow.key == key, CachedAnswerRow.expires_at > func.now()
            )
        )

    def claim(self, key: bytes, *, seconds: float) -> datetime | None:
        """Claim to make an answer, for so long; ``None`` while there is one, or another's claim to it.

        The time that the claim ends at is what it is known by.
        """
        until = func.now() + timedelta(seconds=seconds)
        void: ColumnElement[bool] = or_(
            CachedAnswerRow.expires_at <= func.now(),
            CachedAnswerRow.answer.is_(None) & (CachedAnswerRow.claimed_until <= func.now()),
        )
        claimed = (
            insert(CachedAnswerRow)
            .values(key=key, answer=None, claimed_until=until, expires_at=until)
            .on_conflict_do_update(
                index_elements=[CachedAnswerRow.key],
                set_={"answer": None, "claimed_until": until, "expires_at": until},
                where=void,
            )
            .returning(CachedAnswerRow.claimed_until)
        )
        return self._session.scalar(claimed)

    def keep(self, key: bytes, answer: bytes, *, seconds: float) -> None:
        """Keep the first answer that is made, for so long; and delete some that expired long ago."""
        self._session.execute(
            update(CachedAnswerRow)
            .where(CachedAnswerRow.key == key, CachedAnswerRow.answer.is_(None))
            .values(answer=answer, expires_at=func.now() + timedelta(seconds=seconds))
        )
        old = (
            select(CachedAnswerRow.key)
            .where(CachedAnswerRow.expires_at < func.now() - _PRUNE_AFTER)
            .limit(_PRUNED)
            .with_for_update(skip_locked=True)
        )
        self._session.execute(delete(CachedAnswerRow).where(CachedAnswerRow.key.in_(old)))

    def release(self, key: bytes, claim: datetime) -> None:
        """Give up a claim: no answer came. Another's stays."""
        mine = (CachedAnswerRow.key == key) & (CachedAnswerRow.claimed_until == claim)
        self._session.execute(delete(CachedAnswerRow).where(mine, CachedAnswerRow.answer.is_(None)))
