"""The real Postgres: same address and same rows whatever it died of."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from workers.local.postgres import LONGEST_SOCKET_PATH, SOCKET, Postgres, place_socket
from workers.local.processes import ServiceError

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def own_folder() -> Iterator[Path]:
    """A folder whose path is too long for a socket and has characters that lists and shells take apart."""
    with tempfile.TemporaryDirectory(prefix="uniroute-") as short:
        yield Path(short) / ("a long, winding 'path' " * 5) / "ünïröute"


@pytest.fixture(scope="module")
def started(own_folder: Path) -> Iterator[Postgres]:
    """A Postgres of this module's own, which tests stop and kill."""
    server = Postgres(own_folder, outlive=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(started: Postgres) -> Postgres:
    """The module's Postgres, up."""
    started.start()
    return started


def read(server: Postgres, query: str) -> list[tuple[object, ...]]:
    """The rows of a query."""
    with server.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def test_rows_survive_stop_and_start(own: Postgres) -> None:
    """A server that was away for a while comes back at the same address with its rows."""
    address = own.url()
    with own.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")

    own.stop()
    away = own.answers()
    own.start()

    assert not away
    assert own.url() == address
    assert read(own, "SELECT number FROM kept") == [(7,)]


def test_rows_survive_a_kill(own: Postgres) -> None:
    """What was committed before SIGKILL is there after the next start."""
    with own.connect() as connection:
        connection.execute("CREATE TABLE survived AS SELECT 8 AS number")

    own.kill()
    own.start()

    assert read(own, "SELECT number FROM survived") == [(8,)]


def test_locks_of_a_recycled_pid_are_no_obstacle(own: Postgres, own_folder: Path) -> None:
    """Lock files whose pid is by now another live process do not stop the start."""
    own.kill()
    lines = [str(os.getpid()), str(own_folder / "data"), "1700000000", "5432", str(own.socket_folder), "", ""]
    for lock in (own_folder / "data" / "postmaster.pid", own.socket_folder / f"{SOCKET}.lock"):
        lock.write_text("\n".join(lines))

    own.start()

    assert own.answers()


def test_stop_leaves_nothing_outside_the_folder(own: Postgres, own_folder: Path) -> None:
    """The folder of a socket that had to be elsewhere goes with the server and comes back with it."""
    place = own.socket_folder

    own.kill()
    own.stop()
    gone = not place.exists()
    own.start()

    assert own_folder not in place.parents
    assert gone
    assert own.answers()


def test_a_second_start_changes_nothing(own: Postgres) -> None:
    """Starting what is up keeps the process."""
    pid = own.pid

    own.start()

    assert own.pid == pid


def test_no_network_port(own: Postgres) -> None:
    """The server listens on its socket alone, in a folder that nobody else can enter."""
    assert read(own, "SHOW listen_addresses") == [("",)]
    assert own.socket_folder.stat().st_mode & 0o077 == 0


def test_a_copied_database_has_the_rows_of_its_template(own: Postgres) -> None:
    """A database made from a template has its tables, and goes when it is dropped, sessions or not."""
    own.create_database("model")
    with own.connect("model") as connection:
        connection.execute("CREATE TABLE things AS SELECT 9 AS number")

    own.create_database("copy", template="model")
    session = own.connect("copy")
    row = session.execute("SELECT number FROM things").fetchone()
    own.drop_database("copy")
    left = read(own, "SELECT count(*) FROM pg_database WHERE datname = 'copy'")
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")

    assert row == (9,)
    assert left == [(0,)]


def test_making_a_database_again_keeps_it(own: Postgres) -> None:
    """A database that is there is kept with its rows."""
    url = own.create_database("again")
    with own.connect("again") as connection:
        connection.execute("CREATE TABLE things ()")

    assert own.create_database("again") == url
    with own.connect("again") as connection:
        assert connection.execute("SELECT to_regclass('things')::text").fetchone() == ("things",)


def test_a_failed_start_quotes_the_log(tmp_path: Path) -> None:
    """Data that Postgres refuses is an error that says why in Postgres's words."""
    server = Postgres(tmp_path / "postgres", outlive=False)
    (tmp_path / "postgres" / "data").mkdir(parents=True)

    with pytest.raises(ServiceError, match=r"(?s)^postgres ended .*postgres\.log:\n.*postgresql\.conf"):
        server.start()

    assert server.pid is None


@pytest.mark.parametrize(
    "name", ["x" * 200, "a,b", 'a"b', "a'b"], ids=["too long", "comma", "quote", "apostrophe"]
)
def test_a_path_unfit_for_sockets_gets_another(name: str) -> None:
    """The socket moves out of a folder whose path is too long or would be taken apart, always alike."""
    folder = Path("/somewhere") / name

    place = place_socket(folder)

    assert folder not in place.parents
    assert len(os.fsencode(place / SOCKET)) <= LONGEST_SOCKET_PATH
    assert place_socket(folder) == place != place_socket(folder / "else")


def test_a_short_path_holds_its_socket() -> None:
    """The socket stays in a folder whose path is short: 82 bytes of it are the most."""
    fits, does_not = Path("/" + "x" * 81), Path("/" + "x" * 82)

    assert place_socket(fits) == fits / "socket"
    assert place_socket(does_not) != does_not / "socket"
