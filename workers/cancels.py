"""Prompts that their callers want no answer to any more."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A cancel message may come before the dispatch that it is about.
_REMEMBERED_S = 3_600.0
_MOST = 100_000


class Cancelled(Exception):  # noqa: N818 (an outcome, not a fault of ours)
    """The caller wants no answer."""

    def __init__(self) -> None:
        super().__init__("the caller cancelled the prompt")


class Cancels:
    """Remembers for an hour which prompts are cancelled, and stops what is being done for them.

    ``cancel`` and ``is_cancelled`` may be called from any thread; ``watch`` belongs to the asyncio loop.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cancelled: OrderedDict[str, float] = OrderedDict()
        self._running: dict[str, set[asyncio.Task[object]]] = {}
        # Told to stop; a second time would count as somebody else's cancellation.
        self._stopped: set[asyncio.Task[object]] = set()

    def cancel(self, prompt_id: str) -> None:
        """Stop what is being done for a prompt, and refuse it from now on."""
        with self._lock:
            now = self._clock()
            self._cancelled[prompt_id] = now
            self._cancelled.move_to_end(prompt_id)
            while self._cancelled and (
                len(self._cancelled) > _MOST or next(iter(self._cancelled.values())) < now - _REMEMBERED_S
            ):
                self._cancelled.popitem(last=False)
            tasks = tuple(self._running.get(prompt_id, ()))
        for task in tasks:
            task.get_loop().call_soon_threadsafe(self._stop, prompt_id, task)

    def is_cancelled(self, prompt_id: str) -> bool:
        """Whether the caller of a prompt wants no answer any more."""
        with self._lock:
            return prompt_id in self._cancelled

    @contextmanager
    def watch(self, prompt_id: str) -> Iterator[None]:
        """Raise ``Cancelled`` out of the block where the prompt is cancelled, now or while it runs."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("what is watched must be a task")
        with self._lock:
            if prompt_id in self._cancelled:
                raise Cancelled
            self._running.setdefault(prompt_id, set()).add(task)
        try:
            yield
        except asyncio.CancelledError:
            if prompt_id in self._cancelled and task.uncancel() == 0:
                raise Cancelled from None
            raise
        finally:
            self._stopped.discard(task)
            with self._lock:
                tasks = self._running[prompt_id]
                tasks.discard(task)
                if not tasks:
                    del self._running[prompt_id]

    def _stop(self, prompt_id: str, task: "asyncio.Task[object]") -> None:
        if task in self._running.get(prompt_id, ()) and task not in self._stopped:  # it may have ended
            self._stopped.add(task)
            task.cancel()
