"""A real Kafka and a real Postgres, started and stopped together in one folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from workers.local.kafka import Kafka
from workers.local.postgres import Postgres

DATABASE = "uniroute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a stack answers."""

    #: ``host:port``.
    kafka_bootstrap: str
    #: An SQLAlchemy URL, over a Unix socket.
    database_url: str

    def as_environment(self) -> dict[str, str]:
        """The variables that tell every process of uniroute to use this stack."""
        return {
            "UNIROUTE_KAFKA_BOOTSTRAP": self.kafka_bootstrap,
            "UNIROUTE_DATABASE_URL": self.database_url,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """How one server of a stack is."""

    name: str
    #: None while it is down.
    pid: int | None
    #: It was asked, and answered.
    answers: bool
    #: Where it answers when it is up, None if it was never started.
    address: str | None
    log: Path


class LocalStack:
    """The Kafka and the Postgres of one folder, at addresses that stay the same across restarts.

    With ``outlive`` they stay when this process ends (``uniroute up``). Otherwise they are private: they end
    with this process, however it ends, and any number of them can live at once in folders of their own.
    """

    def __init__(self, folder: Path, *, outlive: bool = False) -> None:
        self.folder = folder.expanduser().resolve()
        self.kafka = Kafka(self.folder / "kafka", outlive=outlive)
        self.postgres = Postgres(self.folder / "postgres", outlive=outlive)

    @property
    def endpoints(self) -> Endpoints:
        """Where the stack answers when it is up."""
        return Endpoints(kafka_bootstrap=self.kafka.bootstrap, database_url=self.postgres.url(DATABASE))

    def start(self) -> Endpoints:
        """Start both and return when both answer; if one fails, what this call started is stopped again.

        Nothing to do if both are up. A UsageError if the folder is in use by another process, a ServiceError
        with the end of the log if a server does not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            servers = (self.kafka, self.postgres)
            fresh = [server for server in servers if not server.service.is_claimed()]
            try:
                # Kafka takes longer: Postgres starts meanwhile.
                self.kafka.launch()
                self.postgres.start()
                self.postgres.create_database(DATABASE)
                self.kafka.wait()
            except BaseException:
                for server in fresh:
                    server.stop()
                raise
        return self.endpoints

    def stop(self) -> None:
        """End both in order; nothing to do if they are down."""
        if not self.folder.exists():
            return
        with self._locked():
            try:
                self.kafka.stop()
            finally:
                self.postgres.stop()

    def status(self) -> tuple[ServerStatus, ServerStatus]:
        """How Kafka and Postgres are; changes nothing, not even in a folder that never held a stack."""
        kafka, postgres = self.kafka, self.postgres
        return (
            ServerStatus(
                name="kafka",
                pid=kafka.pid,
                answers=kafka.answers(),
                address=kafka.bootstrap if kafka.exists else None,
                log=kafka.service.log,
            ),
            ServerStatus(
                name="postgres",
                pid=postgres.pid,
                answers=postgres.answers(),
                address=postgres.url(DATABASE) if postgres.exists else None,
                log=postgres.service.log,
            ),
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until no other process starts or stops this stack; the kernel frees a dead one's lock."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
