"""Runs one command as a child and ends it when the process that asked for it is gone, however it died.

Started as a script, with the standard library alone, so that it is up in a few hundredths of a second and
holds little memory::

    python -I -S guard.py --owner PID --stop SIGNAL --grace SECONDS [--user UID:GID] -- COMMAND...

The child's pid is the one line on standard output. The guard ends with its child, and takes the same exit
code. SIGTERM, SIGINT and SIGHUP ask it to end the child, and it notices by itself that its owner has
gone: its parent is then another process. No terminal signal reaches it, for it has a session of its own.
Should somebody kill the guard, Linux ends the child.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: This file, to be run as a script.
PATH = Path(__file__).resolve()
#: How often the guard asks who its parent is.
WATCH_SECONDS = 0.25
#: Between two looks at orphans that are about to end.
REAP_SECONDS = 0.02
# Numbers of prctl(2).
_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the command until it ends, its owner goes or a signal asks for the end."""
    arguments = _parse()
    control = _find_prctl()
    # The children of a killed server become the guard's, which waits for them: no zombie, no straggler.
    control(_SET_CHILD_SUBREAPER, 1)
    wakeup, stop_requests = _watch_signals()
    child = _start(arguments, control)
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    _close_standard_output()
    while child.poll() is None:
        if stop_requests or os.getppid() != arguments.owner:
            _stop(child, arguments.stop, arguments.grace)
            break
        select.select([wakeup], [], [], WATCH_SECONDS)
        _drain(wakeup)
    _reap_orphans(arguments.grace)
    code = int(child.returncode)
    return code if code >= 0 else 128 - code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--stop", type=int, default=signal.SIGTERM)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--user", default="")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _find_prctl() -> Callable[[int, int], int]:
    """Linux's process control; elsewhere something that does nothing."""
    if sys.platform != "linux":
        return lambda _option, _value: 0
    library = ctypes.CDLL(None, use_errno=True)
    return lambda option, value: int(library.prctl(option, value, 0, 0, 0))


def _start(arguments: argparse.Namespace, control: Callable[[int, int], int]) -> "subprocess.Popen[bytes]":
    user, group = (int(part) for part in arguments.user.split(":")) if arguments.user else (None, None)
    return subprocess.Popen(  # noqa: S603  # the command is the local stack's own
        arguments.command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=user,
        group=group,
        extra_groups=[] if arguments.user else None,
        # Runs after the change of account, which would undo it; the guard has one thread, so it is safe.
        preexec_fn=lambda: control(_SET_PARENT_DEATH_SIGNAL, arguments.stop),  # noqa: PLW1509
    )


def _watch_signals() -> tuple[int, list[int]]:
    """Give a descriptor that becomes readable at each signal, and the list of the stop signals received."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: received.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader, received


def _drain(reader: int) -> None:
    with contextlib.suppress(BlockingIOError):  # woken by the clock, not by a signal
        os.read(reader, 4096)


def _close_standard_output() -> None:
    """Tell the owner that no further line comes."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _stop(child: "subprocess.Popen[bytes]", number: int, grace: float) -> None:
    """Ask the child to end, wake it if it is frozen, and kill it when the grace is over."""
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _reap_orphans(grace: float) -> None:
    """Wait until the child's own children, which are the guard's now, have ended too."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < deadline:
            pid, _status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(REAP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
