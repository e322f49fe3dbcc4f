"""Runs the migrations: up, down, where a database stands, and whether it differs from the tables."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, func, pool, select, text

import workers
from workers.errors import UsageError
from workers.storage import (  # noqa: F401  # declare their tables
    batch_tables,
    cost_tables,
    learning_tables,
    llm_journal,
)
from workers.storage.engine import KEEPALIVES, parse_url, translate_errors
from workers.storage.tables import Base

#: Beside ``workers``, in a checkout and in an installed wheel alike.
FOLDER = Path(workers.__file__).resolve().parent.parent / "migrations"

#: No migration waits longer for a lock that serving processes hold; it fails and is tried again instead.
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"
#: How long one migrator waits for another to finish.
MIGRATOR_TIMEOUT = "15min"
#: Alembic keeps its context in a module, so threads of one process take turns.
_alembic = threading.Lock()
_MIGRATOR_LOCK = func.hashtextextended("uniroute migrations", 0)


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring a database up to ``revision``; what is there already is left alone.

    Each migration is one transaction. Two migrators at once are safe: the second waits, then does nothing.
    """
    with connect(database_url) as connection:
        _run(command.upgrade, connection, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Take a database back to ``revision``, ``base`` for nothing at all; what dropped tables held is lost."""
    with connect(database_url) as connection:
        _run(command.downgrade, connection, revision)


def current(database_url: str) -> str | None:
    """Give the revision a database is at; ``None`` before the first migration."""
    with connect(database_url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Give the newest revision this version of uniroute knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise UsageError(f"there are no migrations in {FOLDER}: install uniroute anew")
    return newest


def check(database_url: str) -> tuple[str, ...]:
    """Give one phrase per way in which a database differs from what this version of uniroute needs.

    Compares revision, tables, columns, types, defaults, indexes and comments. Empty: none.
    """
    with connect(database_url) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        found, wanted = context.get_current_revision(), head()
        revision = () if found == wanted else (f"revision is {found or 'none'}, not {wanted}",)
        return revision + tuple(
            _describe(difference) for difference in compare_metadata(context, Base.metadata)
        )


@contextmanager
def hold_migrator_lock(connection: Connection) -> Iterator[None]:
    """Let one migrator at a time past, and set the time limits of what it does."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATOR_TIMEOUT}'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{MIGRATOR_TIMEOUT}'"))
    connection.execute(select(func.pg_advisory_lock(_MIGRATOR_LOCK)))
    # The lock is the session's: it outlives this transaction, and those of the migrations.
    connection.commit()
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(select(func.pg_advisory_unlock(_MIGRATOR_LOCK)))
        connection.commit()


@contextmanager
def connect(database_url: str) -> Iterator[Connection]:
    """Open one connection without the serving processes' time limits; errors as in ``translate_errors``."""
    engine = create_engine(
        parse_url(database_url),
        poolclass=pool.NullPool,
        hide_parameters=True,
        connect_args={"application_name": "uniroute migrate", "connect_timeout": 5, **KEEPALIVES},
    )
    with translate_errors(), engine.connect() as connection:
        yield connection


def _config(connection: Connection | None = None) -> Config:
    # The parser of the configuration reads a percent sign as the start of a name.
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def _run(step: Any, connection: Connection, revision: str) -> None:  # noqa: ANN401 - upgrade or downgrade
    try:
        with _alembic:
            step(_config(connection), revision)
    except CommandError as error:
        raise UsageError(f"the database cannot be moved to {revision!r}: {error}") from error


def _describe(difference: Any) -> str:  # noqa: ANN401 - tuples of many shapes, lists of them for one column
    if isinstance(difference, list):
        return "; ".join(_describe(part) for part in difference)
    kind, *parts = difference
    names = [str(getattr(part, "name", part)) for part in parts if part is not None]
    return f"{kind.replace('_', ' ')}: {', '.join(names)}"
