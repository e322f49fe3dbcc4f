"""Kafka's classes, loaded once and kept as a file: a broker that starts from it takes half the time.

Made by a broker that does nothing else (about ten seconds on two cores), once per Java and Kafka. Whatever
goes wrong with it costs time and nothing else: Java says so in its log and loads the classes anew.
"""

import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workers.local.java import Java
from workers.local.processes import ServiceError

#: The first release whose archives are made and used by one flag each (JEP 514).
OLDEST_RELEASE = 25
#: Leaves out harmless remarks on single classes; an archive that cannot be used is an error, and is said.
QUIET = "-Xlog:aot=error,aot+codecache*=error"
#: Runs a broker whose Java has these flags until it answers, and ends it in order.
Rehearse = Callable[[Sequence[str]], None]

log = logging.getLogger(__name__)


def choose_archive_flags(
    java: Java, folder: Path, *, environment: Mapping[str, str], rehearse: Rehearse
) -> tuple[str, ...]:
    """The flags that make ``java`` start from the archive in ``folder``, which is made if it is not there.

    None for a Java that is too old, and after a rehearsal that gave no archive, which is not tried again.
    ``environment`` is what the broker starts with.
    """
    if java.release < OLDEST_RELEASE:
        return ()
    archive = folder / f"java-{java.version}.aot"
    if not archive.exists():
        draft = folder / f"{archive.name}.draft-{os.getpid()}"
        try:
            rehearse((f"-XX:AOTCacheOutput={draft}",))
            if not _is_sound(java, draft, environment):
                draft.write_bytes(b"")  # remembers that it was tried
            draft.replace(archive)
        except ServiceError as error:
            log.warning("Kafka starts without an archive of its classes, more slowly: %s", error)
            archive.touch()
        finally:
            draft.unlink(missing_ok=True)
    return (f"-XX:AOTCache={archive}", QUIET) if archive.stat().st_size else ()


def _is_sound(java: Java, archive: Path, environment: Mapping[str, str]) -> bool:
    """Tell whether ``java`` accepts the archive; one whose writer was killed it does not."""
    arguments: list[str | Path] = [
        java.executable,
        "-XX:AOTMode=on",
        f"-XX:AOTCache={archive}",
        "-XX:+UseSerialGC",
        "-version",
    ]
    trial = subprocess.run(  # noqa: S603  # the Java that was found
        arguments, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if trial.returncode:
        log.warning("Kafka starts without an archive of its classes, more slowly: %s", trial.stderr.strip())
    return trial.returncode == 0
