"""Pins the jars of Kafka anew: ``python -m workers.local.pins > workers/local/kafka-VERSION.sha256``."""

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.constants import MAVEN_CENTRAL_URL
from jgo.env import EnvironmentBuilder
from jgo.maven import MavenContext

from workers.local.jars import KAFKA_VERSION

#: Kafka as released, and the logger that writes its warnings to standard error.
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"


def pin_jars(folder: Path) -> list[str]:
    """Resolve Kafka and what it depends on into ``folder``; the lines of the pins, by name."""
    repository = folder / "repository"
    maven = MavenContext(repo_cache=repository, remote_repos={"central": MAVEN_CENTRAL_URL})
    EnvironmentBuilder(context=maven, cache_dir=folder / "environment").from_endpoint(COORDINATES)
    jars = sorted(repository.rglob("*.jar"), key=lambda jar: jar.name)
    return [f"{_digest(jar)}  {jar.relative_to(repository).as_posix()}" for jar in jars]


def _digest(jar: Path) -> str:
    return hashlib.sha256(jar.read_bytes()).hexdigest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.writelines(f"{line}\n" for line in pin_jars(Path(scratch)))
