import re
import threading
import traceback
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from workers.errors import UsageError, WaitableError
from workers.local.postgres import Postgres
from workers.storage.engine import KEEPALIVES, describe_url, make_engine, transaction, translate_errors
from workers.storage.errors import NotMigratedError, NotPermittedError, RefusedError


def test_a_database_is_described_without_its_password() -> None:
    """Host, port and name are for people; user, password and options are not."""
    described = describe_url(
        "postgresql://ann:secret@db.example:6432/routing?password=secret&sslmode=require"
    )

    assert described == "db.example:6432/routing"


@pytest.mark.parametrize(
    "url", ["not a url: secret", "mysql://ann:secret@db/routing", "postgresql://a:secret@b:port/c"]
)
def test_a_url_that_cannot_serve_is_refused_without_quoting_it(url: str) -> None:
    """A URL may hold a password, so no error repeats it."""
    with pytest.raises(UsageError) as caught:
        make_engine(url)

    assert "secret" not in str(caught.value)


@pytest.mark.stack
def test_sessions_have_limits_and_a_name(engine: Engine) -> None:
    """No statement of ours runs for ever or waits for ever, and an operator sees whose it is."""
    names = ("statement_timeout", "lock_timeout", "application_name", "TimeZone")
    with transaction(engine) as session:
        found = [session.scalar(text("SELECT current_setting(:name)"), {"name": name}) for name in names]

    assert found == ["30s", "10s", "uniroute", "UTC"]


@pytest.mark.stack
def test_options_of_the_url_are_kept(migrated_url: str) -> None:
    """An operator's own session options stand beside ours."""
    engine = make_engine(f"{migrated_url}&options=-c%20work_mem%3D9MB", lock_timeout_ms=50)
    with transaction(engine) as session:
        found = [
            session.scalar(text(f"SELECT current_setting('{name}')")) for name in ("work_mem", "lock_timeout")
        ]
    engine.dispose()

    assert found == ["9MB", "50ms"]


@pytest.mark.stack
def test_an_error_rolls_back(engine: Engine) -> None:
    """A block that fails leaves no trace of what it wrote."""
    with pytest.raises(RefusedError), transaction(engine) as session:
        session.execute(text("UPDATE routing_state SET version = 7; UPDATE routing_state SET id = 7"))

    with transaction(engine) as session:
        assert session.scalar(text("SELECT version FROM routing_state")) == 0


@pytest.mark.stack
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE routing_state SET version = 7 WHERE id = 1",  # lock_timeout: another transaction holds it
        "SELECT pg_sleep(5)",  # statement_timeout
        "SELECT pg_terminate_backend(pg_backend_pid())",
    ],
)
def test_what_may_work_later_is_waited_for(engine: Engine, migrated_url: str, statement: str) -> None:
    """Locks, time-outs and lost connections are nobody's fault: the caller waits and tries again."""
    hurried = make_engine(migrated_url, statement_timeout_ms=200, lock_timeout_ms=100)
    with transaction(engine) as holder:
        holder.execute(text("UPDATE routing_state SET version = 5"))
        with pytest.raises(WaitableError, match=r"^Postgres is away: "), transaction(hurried) as session:
            session.execute(text(statement))
    hurried.dispose()


@pytest.mark.stack
@pytest.mark.parametrize("missing", ["nowhere", "nowhere.routing_state", "routing_state WHERE lost = 1"])
def test_a_missing_migration_is_waited_for(engine: Engine, missing: str) -> None:
    """A table, a schema or a column that is not there comes with a migration, and the error says which."""
    with pytest.raises(WaitableError) as caught, transaction(engine) as session:
        session.execute(text(f"SELECT * FROM {missing}"))  # noqa: S608 - three names of ours

    assert isinstance(caught.value, NotMigratedError)
    assert re.fullmatch(r"\w.* does not exist; run `uniroute db upgrade`", str(caught.value))


@pytest.mark.stack
def test_a_missing_permission_is_waited_for(engine: Engine) -> None:
    """A grant that was lost is given back while processes run; the error names the table and the fix."""
    with pytest.raises(WaitableError) as caught, transaction(engine) as session:
        session.execute(text("SET LOCAL ROLE pg_monitor; SELECT * FROM llms"))

    assert isinstance(caught.value, NotPermittedError)
    assert str(caught.value) == (
        "permission denied for table llms; grant what is missing to the user that UNIROUTE_DATABASE_URL names"
    )


@pytest.mark.stack
def test_a_user_who_is_refused_is_waited_for(engine: Engine) -> None:
    """A password that is being changed, on either side, costs no message."""
    with pytest.raises(NotPermittedError, match=r"^no entry; grant"), transaction(engine) as session:
        session.execute(text("DO $$ BEGIN RAISE 'no entry' USING ERRCODE = '28000'; END $$"))


@pytest.mark.stack
def test_a_host_that_went_silent_is_given_up_in_seconds(migrated_url: str) -> None:
    """The client's own limits, which the URL may change: no server can end a query of a client it lost."""
    engine = make_engine(f"{migrated_url}&keepalives_idle=60")
    raw = engine.raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, psycopg.Connection)
    found = connection.info.get_parameters()
    raw.close()
    engine.dispose()

    assert {name: found[name] for name in KEEPALIVES} == {
        "keepalives_idle": "60",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }


@pytest.mark.stack
def test_a_standby_is_waited_for(engine: Engine) -> None:
    """After a failover the old address refuses writes until it points to the new primary."""
    with pytest.raises(WaitableError, match="read-only"), transaction(engine) as session:
        session.execute(text("SET TRANSACTION READ ONLY; UPDATE routing_state SET version = 7"))


@pytest.mark.stack
def test_a_deadlock_is_waited_for(engine: Engine) -> None:
    """Of two transactions that wait for each other, one goes on and the other is told to try again."""
    with transaction(engine) as session:
        session.execute(text("CREATE TABLE pair AS SELECT generate_series(1, 2) AS id, 0 AS n"))
    both_hold_one = threading.Barrier(2)
    outcomes: list[str] = []

    def update(first: int, second: int) -> None:
        try:
            with transaction(engine) as session:
                session.execute(text("UPDATE pair SET n = 1 WHERE id = :id"), {"id": first})
                both_hold_one.wait()
                session.execute(text("UPDATE pair SET n = 1 WHERE id = :id"), {"id": second})
            outcomes.append("done")
        except WaitableError as error:
            outcomes.append(error.problem)

    threads = [threading.Thread(target=update, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["deadlock detected", "done"]


@pytest.mark.stack
def test_a_full_pool_is_waited_for(migrated_url: str) -> None:
    """More threads than connections is a wait like any other."""
    engine = make_engine(migrated_url, pool_size=1, pool_wait_seconds=0.05)
    with transaction(engine) as first:
        first.execute(text("SELECT 1"))
        with pytest.raises(WaitableError, match=r"in use"), transaction(engine) as second:
            second.execute(text("SELECT 1"))
    engine.dispose()


@pytest.mark.stack
def test_a_refused_row_is_named_but_not_shown(engine: Engine) -> None:
    """The row that met no constraint may hold a key, so neither the error nor its traceback repeats it."""
    insert = text(
        "INSERT INTO llms (name, base_url, provider_model, expected_output_tokens, api_key_ref) "
        "VALUES ('a', 'http://x', 'm', 1, :key)"
    )
    with pytest.raises(RefusedError) as caught, transaction(engine) as session:
        session.execute(insert, {"key": "sk-very-secret"})

    assert caught.value.constraint == "ck_llms_api_key_ref"
    assert "very-secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.stack
def test_a_row_too_large_for_an_index_is_refused_not_waited_for(engine: Engine) -> None:
    """Trying again would fail again: psycopg files this under the errors of operation, we do not."""
    large = "SELECT string_agg(md5(n::text), '') AS name FROM generate_series(1, 10000) AS n"
    with pytest.raises(RefusedError), transaction(engine) as session:
        session.execute(text(f"CREATE TABLE names AS {large}; CREATE INDEX ON names (name)"))


@pytest.mark.stack
def test_errors_of_bare_psycopg_are_translated_too(migrated_url: str) -> None:
    """The listener uses psycopg itself; its lost connections are ours to wait for."""
    engine = make_engine(migrated_url)
    raw = engine.raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, psycopg.Connection)
    with pytest.raises(WaitableError), translate_errors():
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    raw.invalidate()
    engine.dispose()


@pytest.mark.stack
def test_faults_of_our_own_sql_are_not_dressed_up(engine: Engine) -> None:
    """A syntax error is a bug: it surfaces as it is."""
    with pytest.raises(Exception, match="syntax error") as caught, transaction(engine) as session:
        session.execute(text("SELEC 1"))

    assert not isinstance(caught.value, WaitableError | RefusedError)


@pytest.mark.stack
def test_postgres_may_go_and_come_back(tmp_path: Path) -> None:
    """While Postgres is down every transaction says so; once it is back the same engine works."""
    server = Postgres(tmp_path / "pg", outlive=False)
    server.start()
    engine = make_engine(server.url("postgres"))
    try:
        with transaction(engine) as session:
            session.execute(text("SELECT 1"))
        server.kill()
        with pytest.raises(WaitableError, match="Postgres is away"), transaction(engine) as session:
            session.execute(text("SELECT 1"))
        server.start()
        with transaction(engine) as session:
            answer = session.scalar(text("SELECT 1"))
    finally:
        engine.dispose()
        server.stop()

    assert answer == 1
