"""Runs one command as a child and ends it when the process that asked for it is gone, however it died.

Started as a script, with the standard library alone, so that it is up in a few hundredths of a second and
holds little memory::

    python -I -S guard.py --owner PID --stop SIGNAL --grace SECONDS [--user UID:GID] -- COMMAND...

The child's pid is the one line on standard output. The guard ends with its child, and takes the same exit
code. SIGTERM, SIGINT and SIGHUP ask it to end the child, and it notices by itself that its owner has
gone: its parent is then another process. No terminal signal reaches it, for it has a session of its own.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

#: How often the guard asks who its parent is.
WATCH_SECONDS = 0.25


def main() -> int:
    """Run the command until it ends, its owner goes or a signal asks for the end."""
    arguments = _parse()
    wakeup, stop_requests = _watch_signals()
    user, group = (int(part) for part in arguments.user.split(":")) if arguments.user else (None, None)
    child = subprocess.Popen(  # noqa: S603  # the command is the local stack's own
        arguments.command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        user=user,
        group=group,
        extra_groups=[] if arguments.user else None,
    )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    _close_standard_output()
    while child.poll() is None:
        if stop_requests or os.getppid() != arguments.owner:
            _stop(child, arguments.stop, arguments.grace)
            break
        select.select([wakeup], [], [], WATCH_SECONDS)
        _drain(wakeup)
    code = child.returncode
    return code if code >= 0 else 128 - code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--stop", type=int, default=signal.SIGTERM)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--user", default="")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


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
    try:
        os.read(reader, 4096)
    except BlockingIOError:
        return  # woken by the clock, not by a signal


def _close_standard_output() -> None:
    """Tell the owner that no further line comes, and let no write to a closed pipe end the guard."""
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


#: This file, to be run as a script.
PATH = Path(__file__).resolve()

if __name__ == "__main__":
    sys.exit(main())
