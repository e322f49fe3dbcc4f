"""The local stack as a whole: Kafka and Postgres that come and go together and leave nothing behind."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from kafka import KafkaAdminClient

from workers.errors import UsageError
from workers.local.processes import ServiceError, wait_gone
from workers.local.stack import LocalStack

pytestmark = pytest.mark.stack

#: Starts a private stack in the folder that is named, says the pids of its servers, and waits to be ended.
OWNER = """
import signal
import sys
from pathlib import Path
from workers.local.stack import LocalStack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for its background jobs
with LocalStack(Path(sys.argv[1])) as stack:
    print(stack.kafka.pid, stack.postgres.pid, flush=True)
    sys.stdin.read()
"""
#: More than an orderly end takes, on a machine that is busy with other things.
LONG_SECONDS = 60.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that several stacks use one after the other, so that storage is formatted once."""
    with tempfile.TemporaryDirectory(prefix="uniroute-") as made:
        yield Path(made)


def start_elsewhere(folder: Path) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """Start a private stack from another process; that process, and each one of the stack."""
    owner = subprocess.Popen(  # noqa: S603  # this interpreter
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    servers = owner.stdout.readline().split()
    family = psutil.Process(owner.pid).children(recursive=True)
    assert {int(pid) for pid in servers} <= {member.pid for member in family}
    return owner, family


def end(owner: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send the owner a signal and wait until it has ended."""
    owner.send_signal(number)
    with owner:
        owner.wait(LONG_SECONDS)


def test_both_servers_answer(stack: LocalStack, kafka_bootstrap: str, database_url: str) -> None:
    """A started stack answers where it says: Kafka on the loopback address, Postgres with that database."""
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    topics = admin.list_topics()
    admin.close()
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT current_database()").fetchone()

    assert isinstance(topics, list)
    assert kafka_bootstrap.startswith("127.0.0.1:")
    assert row is not None
    assert row[0].startswith("test_")
    assert stack.endpoints.as_environment() == {
        "UNIROUTE_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "UNIROUTE_DATABASE_URL": stack.postgres.url("uniroute"),
    }


def test_two_stacks_live_at_once(stack: LocalStack, folder: Path) -> None:
    """Stacks in different folders share nothing: each answers, and the end of one leaves the other alone."""
    with LocalStack(folder) as second:
        pids = {server.pid for server in (*stack.status(), *second.status())}
        answers = [server.answers for server in (*stack.status(), *second.status())]
        addresses = {server.address for server in (*stack.status(), *second.status())}

    assert None not in pids
    assert len(pids) == len(addresses) == 4
    assert all(answers)
    assert [server.answers for server in second.status()] == [False, False]
    assert [server.answers for server in stack.status()] == [True, True]


def test_a_killed_owner_leaves_nothing(folder: Path) -> None:
    """SIGKILL of the process that started a private stack ends every process of it, in order."""
    owner, family = start_elsewhere(folder)

    end(owner, signal.SIGKILL)

    assert wait_gone(family, timeout=LONG_SECONDS)
    assert "shut down" in (folder / "postgres" / "postgres.log").read_text()


def test_an_interrupted_owner_leaves_nothing(folder: Path) -> None:
    """Ctrl-C reaches the owner alone, which ends its stack before itself."""
    owner, family = start_elsewhere(folder)

    end(owner, signal.SIGINT)

    assert wait_gone(family, timeout=0.0)


def test_a_folder_in_use_is_refused(folder: Path) -> None:
    """A second process may not use a live one's folder, and leaves its stack alone."""
    owner, family = start_elsewhere(folder)

    with pytest.raises(UsageError, match=rf"is in use by process {owner.pid}: "):
        LocalStack(folder).start()

    assert all(member.is_running() for member in family)
    end(owner, signal.SIGKILL)
    assert wait_gone(family, timeout=LONG_SECONDS)


def test_a_failed_start_leaves_nothing(folder: Path) -> None:
    """If one server does not start, the other is stopped again."""
    settings = folder / "postgres" / "data" / "postgresql.conf"
    kept = settings.read_text()
    settings.write_text("port = house\n")
    stack = LocalStack(folder)

    with pytest.raises(ServiceError, match=r"(?s)^postgres ended .*\"port\": \"house\""):
        stack.start()

    settings.write_text(kept)
    assert [server.pid for server in stack.status()] == [None, None]


def test_status_changes_nothing(tmp_path: Path) -> None:
    """Both servers of a folder that never held a stack are down, and asking makes no folder."""
    stack = LocalStack(tmp_path / "nothing")

    servers = stack.status()
    stack.stop()

    assert [(server.name, server.pid, server.answers, server.address) for server in servers] == [
        ("kafka", None, False, None),
        ("postgres", None, False, None),
    ]
    assert not (tmp_path / "nothing").exists()


def test_a_moved_folder_still_starts(folder: Path) -> None:
    """A stack's folder can be moved while it is down; its data and ports go with it."""
    before = LocalStack(folder).endpoints
    moved = folder / "moved"
    moved.mkdir()
    for name in ("kafka", "postgres"):
        shutil.move(folder / name, moved / name)

    with LocalStack(moved) as stack:
        after = stack.endpoints
        answers = [server.answers for server in stack.status()]

    assert after.kafka_bootstrap == before.kafka_bootstrap
    assert answers == [True, True]
