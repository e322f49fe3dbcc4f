"""Connections to Postgres: an engine with time limits, transactions, and errors turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from workers.errors import UsageError, WaitableError
from workers.storage.errors import NotMigratedError, NotPermittedError, RefusedError

#: Classes of SQLSTATE after which the same statement may succeed later: connection, resources, rollback,
#: object in use, operator's intervention, system.
_PASSING = ("08", "40", "53", "55", "57", "58")
#: A server that became a standby refuses writes until its address points to the new primary.
_READ_ONLY = "25006"
_UNDEFINED = ("42P01", "42703", "3F000")
#: No privilege, or the user or password is not accepted.
_FORBIDDEN = ("42501", "28")

#: How soon a peer that went silent is given up: no answer for 5 + 3 * 2 s, or what was sent not acknowledged
#: for 15 s. Without these a query waits for a vanished host as long as TCP does, which is minutes.
KEEPALIVES = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def make_engine(
    url: str,
    *,
    application_name: str = "uniroute",
    statement_timeout_ms: int = 30_000,
    lock_timeout_ms: int = 10_000,
    pool_size: int = 4,
    pool_wait_seconds: float = 10.0,
) -> Engine:
    """Make an engine for ``url``; connects at first use.

    No statement runs longer than ``statement_timeout_ms``, nor waits ``lock_timeout_ms`` for a lock.
    Connections are tested before use, so a restarted Postgres costs no error, and ``KEEPALIVES`` end those
    whose peer went silent; ``url`` may set others. Neither the password nor the parameters of a statement
    appear in an error's text. Raises ``UsageError`` unless ``url`` is Postgres's.
    """
    parsed = parse_url(url)
    options = f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={lock_timeout_ms} -c timezone=UTC"
    own = parsed.query.get("options")
    return create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": 5,
            "options": f"{own} {options}" if isinstance(own, str) else options,
            **{name: value for name, value in KEEPALIVES.items() if name not in parsed.query},
        },
    )


def parse_url(url: str) -> URL:
    """Read a database URL, whose driver is always psycopg 3; ``UsageError`` quotes nothing of a bad one."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            "the database URL cannot be read: it looks like postgresql+psycopg://user@host:5432/name"
        ) from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise UsageError(
            f"the database is {parsed.get_backend_name()}, uniroute keeps its state in Postgres only"
        )
    return parsed.set(drivername="postgresql+psycopg")


def describe_url(url: str | URL) -> str:
    """Name a database for people: host, port and name, never user, password or options."""
    parsed = parse_url(url) if isinstance(url, str) else url
    host = parsed.host or parsed.query.get("host") or "the local socket"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{host}{port}/{parsed.database}"


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Open a session in a transaction that commits at the end of the block, or rolls back on any error.

    Raises ``WaitableError`` where Postgres is away or asks to try again, ``RefusedError`` for what the tables
    do not take: see ``translate_errors``.
    """
    with translate_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of SQLAlchemy and psycopg into ours.

    ``WaitableError``: no connection, lost connection, deadlock, timeout, serialisation failure, a standby.
    ``NotMigratedError``, ``NotPermittedError``: a missing table or privilege, waited for as well.
    ``RefusedError``: a constraint or a malformed value, without the row itself, which may hold what nobody
    should read. Errors in our SQL pass as they are.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise WaitableError("Postgres", "every connection of the pool is in use") from error
    except DBAPIError as error:
        lost = error.connection_invalidated
        translated = _translate(error.orig, lost=lost)
        if translated is None:
            raise
        raise translated from None
    except psycopg.Error as error:
        translated = _translate(error, lost=False)
        if translated is None:
            raise
        raise translated from None


def _translate(error: BaseException | None, *, lost: bool) -> WaitableError | RefusedError | None:
    """Give our error for one of psycopg; ``None`` for what is a fault in our own SQL."""
    if not isinstance(error, psycopg.Error):
        return None
    state, sentence = error.sqlstate or "", _first_line(error)
    passing = isinstance(error, psycopg.OperationalError) and (not state or state.startswith(_PASSING))
    if passing or lost or state == _READ_ONLY:
        return WaitableError("Postgres", sentence)
    if state in _UNDEFINED:
        return NotMigratedError(sentence)
    if state.startswith(_FORBIDDEN):
        return NotPermittedError(sentence)
    if isinstance(error, psycopg.IntegrityError | psycopg.DataError | psycopg.OperationalError):
        return RefusedError(sentence, constraint=error.diag.constraint_name)
    return None


def _first_line(error: psycopg.Error) -> str:
    """Give the message without the DETAIL, which quotes the row."""
    text = error.diag.message_primary or str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
