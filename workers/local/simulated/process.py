"""Start the simulated LLMs' server as a child process, and end it."""

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from workers.errors import UsageError, WorkersError

START_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_USAGE_EXIT_CODE = 2


class ServerStartError(WorkersError):
    """The server's process ended, or said nothing for too long; the text quotes what it wrote."""

    def __init__(self, problem: str, written: str) -> None:
        super().__init__(f"the simulated LLMs {problem}: {written or '(nothing written)'}")
        self.written = written


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A running server; leaving its ``with`` block ends it, and so does the end of this process."""

    #: ``http://127.0.0.1:PORT``.
    url: str
    #: What an OpenAI client takes: ``url`` with ``/v1``.
    base_url: str
    pid: int
    _child: subprocess.Popen[bytes]
    _errors: IO[bytes]

    @classmethod
    def start(cls, arguments: Sequence[str] = (), *, timeout: float = START_SECONDS) -> Self:
        """Start the server with ``arguments`` and wait until it accepts connections.

        Raises ``UsageError`` with the server's own sentence if it refuses them, else ``ServerStartError``.
        """
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        child = subprocess.Popen(  # noqa: S603 (this interpreter and this package)
            [sys.executable, "-m", "workers.local.simulated", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            ready = json.loads(_first_line(child, timeout))
        except ValueError:
            code = child.poll()
            _end(child)
            errors.seek(0)
            written = errors.read().decode(errors="replace").strip()
            errors.close()
            if code == _USAGE_EXIT_CODE:
                raise UsageError(written) from None
            problem = "did not start in time" if code is None else f"ended with exit code {code}"
            raise ServerStartError(problem, written) from None
        return cls(url=ready["url"], base_url=ready["base_url"], pid=child.pid, _child=child, _errors=errors)

    def stop(self) -> None:
        """End the server; nothing happens if it has ended."""
        _end(self._child)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def outcome_arguments(*, outcomes: Path | None, seed: int = 0, faults: Path | None = None) -> list[str]:
    """Give the arguments that serve a folder of outcomes, or the built-in tasks where there is none."""
    arguments = ["--seed", str(seed)]
    if outcomes is not None:
        arguments += ["--outcomes", str(outcomes)]
    if faults is not None:
        arguments += ["--faults", str(faults)]
    return arguments


def _first_line(child: subprocess.Popen[bytes], timeout: float) -> bytes:
    """Wait for the first line of output; empty if the process ends or the time does."""
    if child.stdout is None:
        return b""
    readable, _, _ = select.select([child.stdout], [], [], timeout)
    line = child.stdout.readline() if readable else b""
    if not line:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS if readable else 0)
    return line


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask, wait, kill; then collect the process."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()
