import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from workers.errors import UsageError
from workers.storage import migrate
from workers.storage.engine import make_engine, transaction
from workers.storage.errors import NotMigratedError
from workers.storage.routing_state import RoutingState
from workers.storage.tables import Base

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[3]

#: What Alembic's comparison does not see: constraints with their conditions, index definitions, identities.
CATALOGUE = """
SELECT 'constraint ' || conname || ' on ' || conrelid::regclass || ': ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'column ' || attrelid::regclass || '.' || attname || ': ' || format_type(atttypid, atttypmod)
       || ' not null ' || attnotnull || ' identity ' || quote_literal(attidentity::text)
       || ' default ' || coalesce(pg_get_expr(adbin, adrelid), 'none')
       || ' comment ' || coalesce(col_description(attrelid, attnum), 'none')
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'table ' || relname || ': ' || coalesce(obj_description(oid), 'none')
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


@pytest.fixture
def empty(database_url: str) -> Iterator[Engine]:
    """An engine on a database without tables."""
    made = make_engine(database_url)
    yield made
    made.dispose()


def catalogue(engine: Engine) -> set[str]:
    """Everything Postgres knows of the tables, but for Alembic's own."""
    with transaction(engine) as session:
        return {row for row in session.scalars(text(CATALOGUE)) if "alembic_version" not in row}


def test_up_down_and_up_again(database_url: str, empty: Engine) -> None:
    """Every migration can be taken back, leaving nothing, and applied anew with the same outcome."""
    migrate.upgrade(database_url)
    first = catalogue(empty)
    migrate.downgrade(database_url, "base")
    gone = catalogue(empty)
    migrate.upgrade(database_url)

    assert gone == set()
    assert catalogue(empty) == first
    assert migrate.current(database_url) == migrate.head()


def test_upgrading_again_keeps_what_is_there(database_url: str, empty: Engine) -> None:
    """An upgrade of an up-to-date database changes nothing."""
    migrate.upgrade(database_url)
    with transaction(empty) as session:
        RoutingState(session).bump()
    migrate.upgrade(database_url)

    with transaction(empty) as session:
        assert RoutingState(session).version() == 1


def test_migrations_give_the_declared_tables(migrated_url: str, engine: Engine, empty: Engine) -> None:
    """The migrations and the declared tables agree to the last CHECK, index, default and comment."""
    Base.metadata.create_all(empty)

    assert migrate.check(migrated_url) == ()
    assert catalogue(engine) == catalogue(empty)


def test_check_names_what_differs(migrated_url: str, engine: Engine) -> None:
    """A column somebody added by hand is drift, and is named."""
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE policies ADD COLUMN note text"))

    assert migrate.check(migrated_url) == ("remove column: policies, note",)


def test_check_of_an_empty_database_names_the_revision(database_url: str) -> None:
    """Before the first migration, the check says which revision is wanted."""
    assert migrate.check(database_url)[0] == f"revision is none, not {migrate.head()}"
    assert migrate.current(database_url) is None


def test_migrating_threads_are_safe(database_url: str) -> None:
    """Threads of one process may all migrate: one does, the others wait and find nothing to do."""
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(migrate.upgrade, database_url) for _ in range(4)]

    assert [future.exception() for future in done] == [None] * 4
    assert migrate.check(database_url) == ()


def test_migrating_processes_are_safe(database_url: str) -> None:
    """Replicas that start together may all migrate: one does, the others wait and find nothing to do."""
    script = "import sys; from workers.storage import migrate; migrate.upgrade(sys.argv[1])"
    command = [sys.executable, "-c", script, database_url]
    replicas = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]  # noqa: S603 - ours
    errors = [replica.communicate()[1] for replica in replicas]

    assert errors == [b""] * 3
    assert migrate.check(database_url) == ()


def test_a_migration_waits_for_no_lock_for_long(database_url: str) -> None:
    """What a migrator runs has time limits, so that serving processes are never blocked behind it."""
    with migrate.connect(database_url) as connection, migrate.hold_migrator_lock(connection):
        lock, statement = connection.execute(
            text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        ).one()

    assert (lock, statement) == (migrate.LOCK_TIMEOUT, migrate.STATEMENT_TIMEOUT)


def test_an_unknown_revision_is_one_sentence(migrated_url: str) -> None:
    """A revision that is not there is the person's mistake, not a traceback."""
    with pytest.raises(UsageError, match="cannot be moved to 'nowhere'"):
        migrate.upgrade(migrated_url, "nowhere")


def test_a_database_without_tables_says_how_to_make_them(empty: Engine) -> None:
    """Using a database before its migration names the command that mends it."""
    with pytest.raises(NotMigratedError, match="uniroute db upgrade"), transaction(empty) as session:
        RoutingState(session).version()


def test_an_installed_wheel_migrates(database_url: str, tmp_path: Path) -> None:
    """The wheel carries the migrations, and finds them from any working directory."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own build
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "site-packages 100%"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = (
        "import sys; from workers.storage import migrate; print(migrate.FOLDER); migrate.upgrade(sys.argv[1])"
    )
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", script, database_url],
        env={"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )

    assert Path(run.stdout.strip()) == installed.resolve() / "migrations"
    assert migrate.check(database_url) == ()
