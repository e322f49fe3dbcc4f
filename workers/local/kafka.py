"""A real, single-node Apache Kafka on loopback ports that it keeps."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from workers.errors import UsageError
from workers.local import ports
from workers.local.archive import choose_archive_flags
from workers.local.folders import cache_folder, write_whole
from workers.local.jars import find_jars
from workers.local.java import find_java
from workers.local.processes import Command, Service, ServiceError
from workers.topics import MAX_RECORD_BYTES

START_SECONDS = 90.0
#: An orderly end takes half a second; one that writes the archive of classes six, on a busy machine more.
STOP_SECONDS = 60.0
#: Starts fast and stays small; a broker on a laptop needs no second compiler.
JVM_FLAGS = ("-Xms128m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
LOGGER_FLAGS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)
#: Kafka's own defaults are for three brokers and slow networks.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A group of one need not wait for others; chaos tests need short sessions.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # After SIGKILL the controller waits for the dead broker's session; a shorter one ends where a busy
    # machine stalls the broker for three seconds.
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "500",
    # A transaction that a dead worker left open hides later records from readers until it is aborted.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # A record of 4 MiB with its framing fits; larger ones belong elsewhere.
    "message.max.bytes": str(MAX_RECORD_BYTES + 64 * 1024),
    # One user on a machine of two cores: fewer threads, smaller buffers.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPorts:
    """The loopback ports that a folder's Kafka keeps across restarts."""

    broker: int
    controller: int


class Kafka:
    """The Kafka of one folder.

    ``start`` formats the storage the first time, starts the broker and returns when it answers. ``kill`` and
    ``restart`` are for tests of what others do meanwhile. Listens on 127.0.0.1 alone.
    """

    def __init__(self, folder: Path, *, outlive: bool, java_flags: Sequence[str] | None = None) -> None:
        self._folder = folder
        #: In place of the archive of classes.
        self._java_flags = java_flags
        self._data = folder / "data"
        self._ports_file = folder / "ports.json"
        self.service = Service("kafka", folder, outlive=outlive, grace_seconds=STOP_SECONDS)

    @property
    def bootstrap(self) -> str:
        """``host:port`` of the broker, chosen at the first call and the same after each restart."""
        return f"{ports.LOOPBACK}:{self._ports().broker}"

    @property
    def exists(self) -> bool:
        """Whether this folder's Kafka was ever started."""
        return self._ports_file.exists()

    @property
    def pid(self) -> int | None:
        """The broker's process, None while it is down."""
        return self.service.pid

    def start(self) -> None:
        """Start the broker and wait until it answers; nothing to do if it does already."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the broker without waiting for it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self.service.is_claimed():
            return
        chosen = self._ports()
        for port in (chosen.broker, chosen.controller):
            if not ports.is_free(port):
                raise UsageError(
                    f"port {port} of the Kafka in {self._folder} is taken by {ports.name_holder(port)}: "
                    f"stop that, or delete {self._ports_file} to choose new ports"
                )
        java, jars = find_java(), find_jars(cache_folder())
        # Java reads the names of folders in the character set of the locale.
        environment = {"CLASSPATH": os.pathsep.join(str(jar) for jar in jars), "LC_ALL": "C.UTF-8"}
        start = [str(java.executable), *JVM_FLAGS, *LOGGER_FLAGS]
        if self._java_flags is None:
            start += choose_archive_flags(java, jars[0].parent, environment=environment, rehearse=_rehearse)
        self._format(start, environment)
        properties = self._folder / "server.properties"
        properties.write_text(_render(chosen, data=self._data), encoding="ascii")
        start += [*(self._java_flags or ()), "kafka.Kafka", str(properties)]
        self.service.start(Command(arguments=start, folder=self._folder, environment=environment))

    def wait(self) -> None:
        """Return when the broker answers; a ServiceError with the end of its log if it does not."""
        self.service.wait_until(self.answers, timeout=START_SECONDS)

    def answers(self) -> bool:
        """Tell whether this folder's broker accepts connections, is in service and lists its topics."""
        if not self.exists or not ports.accepts(self._ports().broker):
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5_000)
        except KafkaError:
            return False
        try:
            cluster = admin.describe_cluster()
            admin.list_topics()
        except KafkaError:
            return False
        finally:
            admin.close()
        return bool(cluster["brokers"]) and cluster["cluster_id"] == self._read_cluster_id()

    def stop(self) -> None:
        """End the broker in order; nothing to do if it is down."""
        self.service.stop()

    def kill(self) -> None:
        """End the broker by SIGKILL; what it had acknowledged is in the page cache and survives."""
        self.service.kill()

    def restart(self) -> None:
        """Stop if needed, and start again on the same ports."""
        self.stop()
        self.start()

    def _ports(self) -> KafkaPorts:
        if not self._ports_file.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            broker, controller = ports.choose_ports(2)
            chosen = KafkaPorts(broker=broker, controller=controller)
            write_whole(self._ports_file, json.dumps(asdict(chosen)))
        return KafkaPorts(**json.loads(self._ports_file.read_text(encoding="utf-8")))

    def _read_cluster_id(self) -> str:
        """The id that the storage was formatted with."""
        lines = (self._data / "meta.properties").read_text(encoding="utf-8").splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))

    def _format(self, start: Sequence[str], environment: dict[str, str]) -> None:
        """Format the storage unless that was done: in full or not at all."""
        if self._data.exists():
            return
        draft = self._folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        properties = self._folder / "format.properties"
        properties.write_text(_render(self._ports(), data=draft), encoding="ascii")
        arguments = [*start, "kafka.tools.StorageTool", "format"]
        arguments += ["-t", _make_cluster_id(), "-c", str(properties)]
        log = self._folder / "format.log"
        with log.open("wb") as output:
            done = subprocess.run(  # noqa: S603  # the Java that was found
                arguments,
                cwd=self._folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        if done.returncode:
            raise ServiceError("kafka", f"could not format its storage (exit code {done.returncode})", log)
        draft.rename(self._data)
        properties.unlink()


def _rehearse(java_flags: Sequence[str]) -> None:
    """Start and stop a broker in a folder of its own, without an archive and with these flags."""
    with tempfile.TemporaryDirectory(prefix="uniroute-") as folder:
        broker = Kafka(Path(folder), outlive=False, java_flags=java_flags)
        try:
            broker.start()
        finally:
            broker.stop()


def _make_cluster_id() -> str:
    """A random id as Kafka writes them: 16 bytes in URL-safe base64, not beginning with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _render(chosen: KafkaPorts, *, data: Path) -> str:
    """The broker's properties; ``data`` relative to its own folder, for a comma in a path would divide it."""
    broker = f"PLAINTEXT://{ports.LOOPBACK}:{chosen.broker}"
    controller = f"{ports.LOOPBACK}:{chosen.controller}"
    settings = {
        **SETTINGS,
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"{broker},CONTROLLER://{controller}",
        "advertised.listeners": broker,
        "log.dirs": data.name,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
