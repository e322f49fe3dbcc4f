"""Long-lived processes that are found again by a record on disk: start, stop, kill, quote the log."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from workers.errors import WorkersError
from workers.local import guard

#: A recorded process and a live one are the same if they were created within this many seconds of each other:
#: the kernel's idea of the time of boot drifts with the clock, pids do not come round that fast.
SAME_CREATION_SECONDS = 5.0
#: Between two looks at a process or a port.
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 25
#: After an orderly end was asked for, seconds until SIGKILL.
GRACE_SECONDS = 15.0


class ServiceError(WorkersError):
    """A service did not start, or ended while it was waited for; the text quotes the end of its log."""

    def __init__(self, name: str, problem: str, log: Path) -> None:
        super().__init__(f"{name} {problem}. The end of {log}:\n{read_tail(log)}")
        self.name = name
        self.log = log


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating-system account that a process runs under."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, and as whom."""

    arguments: Sequence[str]
    #: Added to the environment of this process.
    environment: Mapping[str, str]
    #: None is the account of this process.
    account: Account | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """Enough to tell a process from a later one that was given the same pid."""

    pid: int
    #: Seconds since the epoch.
    created: float
    #: The command line as it was started.
    arguments: Sequence[str]
    #: The process on which this one's life depends; 0 for none.
    owner_pid: int = 0
    owner_created: float = 0.0

    @classmethod
    def of(cls, process: psutil.Process, *, arguments: Sequence[str], owned: bool) -> Self:
        """Describe ``process``, owned by the calling process if ``owned``."""
        owner = psutil.Process() if owned else None
        return cls(
            pid=process.pid,
            created=process.create_time(),
            arguments=tuple(arguments),
            owner_pid=owner.pid if owner else 0,
            owner_created=owner.create_time() if owner else 0.0,
        )

    def find(self) -> psutil.Process | None:
        """The live process that this record describes, None if it has gone."""
        process = find_process(self.pid, created=self.created)
        if process is None:
            return None
        try:
            return process if process.cmdline() == list(self.arguments) else None
        except psutil.Error:
            return None

    def find_owner(self) -> psutil.Process | None:
        """The live owner, None if there is none or it has gone."""
        return find_process(self.owner_pid, created=self.owner_created) if self.owner_pid else None


class Service:
    """One process of a stack: its record, its log and its life.

    ``folder`` keeps ``NAME.json`` (the record) and ``NAME.log`` (its output; the one before, ``NAME.log.1``).
    With ``outlive`` the process stays when its starter ends; otherwise a guard ends it as soon as its starter
    has gone, also by SIGKILL. In both cases it has a session of its own, so that Ctrl-C does not reach it.
    """

    def __init__(
        self, name: str, folder: Path, *, outlive: bool, stop_signal: signal.Signals = signal.SIGTERM
    ) -> None:
        self.name = name
        self._stop_signal = stop_signal
        self.log = folder / f"{name}.log"
        self._record_file = folder / f"{name}.json"
        self._outlive = outlive
        self._child: subprocess.Popen[bytes] | None = None

    def find(self) -> psutil.Process | None:
        """The live process, None if there is none."""
        record = self.read_record()
        return record.find() if record else None

    def read_record(self) -> ProcessRecord | None:
        """What the last start left, None if there was none or it cannot be read."""
        try:
            return ProcessRecord(**json.loads(self._record_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def start(self, command: Command) -> None:
        """Start the process; whether it answers is the caller's to ask. A ServiceError if it cannot."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            pid = self._spawn(command, log.fileno())
        with contextlib.suppress(psutil.NoSuchProcess):
            record = ProcessRecord.of(
                psutil.Process(pid), arguments=command.arguments, owned=not self._outlive
            )
            self._record_file.write_text(json.dumps(asdict(record)), encoding="utf-8")

    def wait_until(self, answers: Callable[[], bool], *, timeout: float, doing: str = "start") -> None:
        """Return when ``answers`` does; a ServiceError if the process ends or ``timeout`` seconds pass."""
        deadline = time.monotonic() + timeout
        while not answers():
            if self.find() is None:
                raise ServiceError(self.name, f"ended instead of answering (to {doing})", self.log)
            if time.monotonic() > deadline:
                raise ServiceError(self.name, f"did not {doing} within {timeout:.0f} s", self.log)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask for an orderly end, kill after the grace; nothing to do if the process has gone."""
        process = self.find()
        if process is not None:
            family = [process, *_children(process)]
            _send(process, self._stop_signal)
            _send(process, signal.SIGCONT)
            if not wait_gone(family, timeout=GRACE_SECONDS):
                self.kill()
        self._forget()

    def kill(self) -> None:
        """End the process by SIGKILL and wait until it, its children and its guard have gone."""
        process = self.find()
        if process is not None:
            family = [process, *_children(process)]
            _send(process, signal.SIGKILL)
            wait_gone(family, timeout=10.0)
            for straggler in family:
                _send(straggler, signal.SIGKILL)
        self._forget()

    def _spawn(self, command: Command, log: int) -> int:
        environment = {**os.environ, **command.environment}
        if self._outlive:
            account = command.account
            child = subprocess.Popen(  # noqa: S603  # the command is the local stack's own
                command.arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
            self._child = child
            return child.pid
        child = subprocess.Popen(  # noqa: S603  # this interpreter and a file of this package
            self._guard(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        self._child = child
        if child.stdout is None:
            raise ServiceError(self.name, "was started without a pipe to its guard", self.log)
        with child.stdout as lines:
            first = lines.readline()
        if not first:
            child.wait()
            raise ServiceError(self.name, "could not be started", self.log)
        return int(first)

    def _guard(self, command: Command) -> list[str]:
        account = command.account
        return [
            sys.executable,
            "-I",
            "-S",
            str(guard.PATH),
            f"--owner={os.getpid()}",
            f"--stop={int(self._stop_signal)}",
            f"--grace={GRACE_SECONDS}",
            f"--user={f'{account.uid}:{account.gid}' if account else ''}",
            "--",
            *command.arguments,
        ]

    def _forget(self) -> None:
        """Reap the child or its guard, and drop the record."""
        if self._child is not None:
            try:
                self._child.wait(10.0)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None
        self._record_file.unlink(missing_ok=True)


def find_process(pid: int, *, created: float) -> psutil.Process | None:
    """The live process of that pid and time of creation; a zombie counts as gone."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < SAME_CREATION_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def wait_gone(processes: Sequence[psutil.Process], *, timeout: float) -> bool:
    """Wait until none of ``processes`` lives (a zombie does not); False if one still does at ``timeout``."""
    deadline = time.monotonic() + timeout
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def read_tail(log: Path, *, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented; a log that is not there or empty says so."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    tail = text.splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in tail) if tail else "    (empty)"


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
