import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from workers.storage.engine import transaction
from workers.storage.errors import NotMigratedError, RefusedError
from workers.storage.routing_state import CHANNEL, RoutingState

pytestmark = pytest.mark.stack


def test_a_change_is_notified_when_it_commits(engine: Engine, migrated_url: str) -> None:
    """Listeners get the new version of every committed change, and none of one that was rolled back."""
    listener = psycopg.connect(migrated_url.replace("postgresql+psycopg", "postgresql"), autocommit=True)
    listener.execute(f"LISTEN {CHANNEL}")
    with Session(engine) as undone:
        RoutingState(undone).bump()
        RoutingState(undone).bump()
        undone.rollback()
    for _ in range(2):
        with transaction(engine) as session:
            RoutingState(session).bump()
    payloads = [notice.payload for notice in listener.notifies(timeout=10, stop_after=2)]
    listener.close()

    assert payloads == ["1", "2"]


def test_the_version_is_a_single_row(engine: Engine) -> None:
    """There is one state; a second row is refused."""
    with pytest.raises(RefusedError) as caught, transaction(engine) as session:
        session.execute(text("INSERT INTO routing_state (id) VALUES (2)"))

    assert caught.value.constraint == "ck_routing_state_single_row"


def test_a_missing_row_is_said(engine: Engine) -> None:
    """A state without its row is a damaged database, not version 0."""
    with transaction(engine) as session:
        session.execute(text("DELETE FROM routing_state"))

    for method in (RoutingState.version, RoutingState.bump):
        with pytest.raises(NotMigratedError), transaction(engine) as session:
            method(RoutingState(session))
