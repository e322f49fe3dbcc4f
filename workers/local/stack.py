"""A real Kafka and a real Postgres, started and stopped together in one folder."""

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
        """Start both and return when both answer; what was started is stopped again if one of them fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            # Kafka takes longer: Postgres starts meanwhile.
            self.kafka.launch()
            self.postgres.start()
            self.postgres.create_database(DATABASE)
            self.kafka.wait()
        except BaseException:
            self.stop()
            raise
        return self.endpoints

    def stop(self) -> None:
        """End both in order; nothing to do if they are down."""
        try:
            self.kafka.stop()
        finally:
            self.postgres.stop()

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
