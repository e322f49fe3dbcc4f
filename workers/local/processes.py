"""Long-lived processes that are found again by a record on disk: start, stop, kill, quote the log."""

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

from workers.errors import UsageError, WorkersError
from workers.local import guard
from workers.local.folders import write_whole

#: A recorded process and a live one are the same if they were created within this many seconds of each other:
#: the kernel's idea of the time of boot drifts with the clock, pids do not come round that fast.
SAME_CREATION_SECONDS = 5.0
#: Between two looks at a process or a port.
POLL_SECONDS = 0.02
#: Between SIGKILL and the end of a process that the kernel is not waiting for.
KILL_SECONDS = 10.0
LOG_TAIL_LINES = 25


class ServiceError(WorkersError):
    """A service did not start, or ended while it was waited for; the text quotes the end of its log."""

    def __init__(self, name: str, problem: str, log: Path) -> None:
        super().__init__(f"{name} {problem}. The end of {log}:\n{read_tail(log)}")
        self.name = name
        self.problem = problem
        self.log = log


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating-system account that a process runs under."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, where, and as whom."""

    arguments: Sequence[str]
    folder: Path
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
        try:
            # Empty for a moment while the process begins.
            return process if process and process.cmdline() in ([], list(self.arguments)) else None
        except psutil.Error:
            return None

    def find_owner(self) -> psutil.Process | None:
        """The live owner, None if there is none or it has gone."""
        return find_process(self.owner_pid, created=self.owner_created) if self.owner_pid else None


class Service:
    """One long-lived process: its record, its log and its life.

    ``folder`` keeps ``NAME.json`` (the record) and ``NAME.log`` (its output; the one before, ``NAME.log.1``).
    With ``outlive`` the process stays when its starter ends; otherwise a guard ends it as soon as its starter
    has gone, also by SIGKILL. In both cases it has a session of its own, so that Ctrl-C does not reach it.
    ``stop_signal`` asks it for an orderly end, for which it has ``grace_seconds``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        outlive: bool,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 15.0,
    ) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._record_file = folder / f"{name}.json"
        self._outlive = outlive
        self._stop_signal = stop_signal
        self._grace_seconds = grace_seconds
        #: The process or its guard, if this object started it.
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The live process's, None if there is none."""
        process = self._find()
        return process.pid if process else None

    def is_claimed(self) -> bool:
        """Tell whether the process lives and is ours to use; a leftover whose owner has gone is ended first.

        A UsageError if it is another's: of a live process, or kept by ``uniroute up`` where a private one is
        asked for.
        """
        record = self._read_record()
        if record is None or record.find() is None:
            return False
        owner = record.find_owner()
        if record.owner_pid and owner is None:
            self.stop()
            return False
        if owner is None and self._outlive:
            return True
        if owner is not None and owner.pid == os.getpid() and not self._outlive:
            return True
        user = f"process {owner.pid}" if owner else "uniroute up"
        fix = f"end that process ({_describe(owner)})" if owner else "run uniroute down for it"
        raise UsageError(f"{self.folder} is in use by {user}: {fix}, or choose another folder")

    def start(self, command: Command) -> None:
        """Start the process; whether it answers is the caller's to ask. A ServiceError if it cannot."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            pid = self._launch(command, log.fileno()) if self._outlive else self._guard(command, log.fileno())
        try:
            record = ProcessRecord.of(
                psutil.Process(pid), arguments=command.arguments, owned=not self._outlive
            )
        except psutil.NoSuchProcess as error:
            self._forget()
            raise ServiceError(self.name, "ended before it answered", self.log) from error
        write_whole(self._record_file, json.dumps(asdict(record)))

    def wait_until(self, answers: Callable[[], bool], *, timeout: float) -> None:
        """Return when ``answers`` does; a ServiceError if the process ends or ``timeout`` seconds pass."""
        deadline = time.monotonic() + timeout
        while not answers():
            if self._find() is None:
                self._forget()
                raise ServiceError(self.name, "ended before it answered", self.log)
            if time.monotonic() > deadline:
                raise ServiceError(self.name, f"did not answer within {timeout:.0f} s", self.log)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask for an orderly end, kill after the grace; nothing to do if the process has gone."""
        self._end(self._stop_signal, within=self._grace_seconds)

    def kill(self) -> None:
        """End the process by SIGKILL and wait until it, its children and its guard have gone."""
        self._end(signal.SIGKILL, within=KILL_SECONDS)

    def freeze(self) -> None:
        """Stop the process and its children as a paused machine would; ``wake`` lets them go on."""
        self._tell_family(signal.SIGSTOP)

    def wake(self) -> None:
        """Let the process and its children go on."""
        self._tell_family(signal.SIGCONT)

    def _tell_family(self, number: signal.Signals) -> None:
        process = self._find()
        for one in [process, *_children(process)] if process is not None else []:
            _send(one, number)

    def _find(self) -> psutil.Process | None:
        record = self._read_record()
        return record.find() if record else None

    def _read_record(self) -> ProcessRecord | None:
        """What the last start left, None if there was none or it cannot be read."""
        try:
            return ProcessRecord(**json.loads(self._record_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _launch(self, command: Command, log: int) -> int:
        """Start the process to stay, and give its pid."""
        account = command.account
        self._child = subprocess.Popen(  # noqa: S603  # the command is the local stack's own
            command.arguments,
            cwd=command.folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        return self._child.pid

    def _guard(self, command: Command, log: int) -> int:
        """Start the process under a guard, and give its own pid."""
        account = command.account
        arguments = [sys.executable, "-I", "-S", str(guard.PATH), f"--owner={os.getpid()}"]
        arguments += [f"--stop={int(self._stop_signal)}", f"--grace={self._grace_seconds}"]
        arguments += [f"--user={account.uid}:{account.gid}"] if account else []
        child = subprocess.Popen(  # noqa: S603  # this interpreter and a file of this package
            [*arguments, "--", *command.arguments],
            cwd=command.folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        self._child = child
        first = b""
        if child.stdout is not None:
            with child.stdout as lines:
                first = lines.readline()
        if not first:
            child.wait()
            raise ServiceError(self.name, "could not be started", self.log)
        return int(first)

    def _end(self, number: signal.Signals, *, within: float) -> None:
        """Send the signal, wait, kill what is left, and forget the process."""
        process = self._find()
        if process is not None:
            family = [process, *_children(process)]
            _send(process, number)
            _send(process, signal.SIGCONT)  # one that is frozen could not end
            if not wait_gone(family, timeout=within):
                for straggler in family:
                    _send(straggler, signal.SIGKILL)
                wait_gone(family, timeout=KILL_SECONDS)
        self._forget()

    def _forget(self) -> None:
        """Drop the record and wait for the child: ended, a guard about to end, or one never recorded."""
        self._record_file.unlink(missing_ok=True)
        child, self._child = self._child, None
        if child is None:
            return
        try:
            child.wait(1.0)
        except subprocess.TimeoutExpired:
            child.terminate()
        try:
            child.wait(self._grace_seconds + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


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


def _describe(process: psutil.Process | None) -> str:
    try:
        return " ".join(" ".join(process.cmdline()).split())[:80] if process else "gone"
    except psutil.Error:
        return "of another account"


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
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # gone by itself
    except psutil.AccessDenied as error:
        raise UsageError(
            f"process {process.pid} belongs to {process.username()}: run this from that account"
        ) from error
