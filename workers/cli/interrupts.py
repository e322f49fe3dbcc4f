"""SIGINT and SIGTERM for runs that start much and must end it: one exception, which nobody swallows."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec

#: What a shell gives for a command that was interrupted.
INTERRUPTED = 130

P = ParamSpec("P")


class Interrupts:
    """Raises ``KeyboardInterrupt`` in the main thread on either signal, from the moment it is made.

    kafka-python logs an exception that a signal raises inside its loop and goes on: what ``heeding`` wraps
    raises it then. A shell starts its background jobs with SIGINT ignored; asked to end, they end too.
    """

    def __init__(self) -> None:
        self._pending = threading.Event()
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)

    def heeding(self, function: Callable[P, None]) -> Callable[P, None]:
        """Give ``function`` so that it raises, once, what was swallowed before it was called."""

        def heed(*args: P.args, **kwargs: P.kwargs) -> None:
            if threading.current_thread() is threading.main_thread() and self._pending.is_set():
                self._pending.clear()
                raise KeyboardInterrupt
            function(*args, **kwargs)

        return heed

    def _interrupt(self, _number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._pending.set()
        raise KeyboardInterrupt
