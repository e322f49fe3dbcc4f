"""How fast what was learned is forgotten, as it is declared."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing.errors import InvalidInputError
from routing.quality.forgetting import DEFAULT_HALF_LIFE
from workers.storage.learning_tables import LearningRuleRow


class LearningRules:
    """The rules by which rates are made of counts, the same for whoever makes them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def half_life(self) -> float:
        """Give the pieces of feedback on an LLM that halve what older ones weigh; ``inf`` forgets nothing."""
        declared = self._session.scalar(select(LearningRuleRow.half_life))
        return DEFAULT_HALF_LIFE if declared is None else declared

    def declare(self, half_life: float) -> None:
        """Set the half-life; ``InvalidInputError`` unless it is above 0."""
        if not half_life > 0:
            raise InvalidInputError("half_life", f"must be above 0, not {half_life!r}")
        added = insert(LearningRuleRow).values(id=1, half_life=half_life)
        self._session.execute(
            added.on_conflict_do_update(index_elements=["id"], set_={"half_life": added.excluded.half_life})
        )
