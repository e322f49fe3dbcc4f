"""Runs a Python program that an LLM wrote and gives what it prints: with limits, and without a sandbox."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Sets its own limits, which the program that takes its place cannot raise again.
_LAUNCHER = """
import os, resource as r, sys
cpu, memory, size, files = map(int, sys.argv[1:5])
for limit, most in ((r.RLIMIT_CPU, cpu), (r.RLIMIT_AS, memory), (r.RLIMIT_FSIZE, size),
                    (r.RLIMIT_NOFILE, files), (r.RLIMIT_CORE, 0)):
    r.setrlimit(limit, (most, most))
os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", sys.argv[5]])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """What a program may use; one that needs more has no output."""

    seconds: float = 10.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 * 2**20
    #: Of each file that it writes, and of what it prints.
    file_bytes: int = 2**20
    open_files: int = 32


def run_program(source: str, *, stdin: str = "", limits: ProgramLimits | None = None) -> str | None:
    """Give what a program prints, ``None`` where it fails or passes a limit.

    It runs in an interpreter of its own, in an empty folder that is removed afterwards, without environment
    variables and without installed packages, and ends with all of its session's processes. That is no
    sandbox: it runs as this account, may read what this account may, and may use the network.
    """
    limits = limits or ProgramLimits()
    with tempfile.TemporaryDirectory(prefix="uniroute-program-") as folder:
        program = Path(folder) / "program.py"
        program.write_text(source, encoding="utf-8", errors="replace")
        printed = Path(folder) / "printed"
        bounds = (limits.cpu_seconds, limits.memory_bytes, limits.file_bytes, limits.open_files)
        with printed.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603  # to run it is what was asked for, by an explicit flag
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, bounds), str(program)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            try:
                process.communicate(stdin.encode(), timeout=limits.seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end_session(process)
        if process.returncode != 0:
            return None
        return printed.read_text(encoding="utf-8", errors="replace")


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill what the program started and left behind, and itself."""
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
