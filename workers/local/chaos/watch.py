"""Watches the workers: starts again what has died, and counts the deaths that the run did not cause."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from workers.local.demo.stage import Stage
from workers.local.processes import read_tail

_LOOK_EVERY_S = 0.2


class Watch:
    """Supervises the named workers in a thread of its own, while it is a context, as systemd would."""

    def __init__(self, stage: Stage, names: Sequence[str], *, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._names = tuple(names)
        self._say = say
        self._held: set[str] = set()
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-watch", daemon=True)
        #: Deaths that the run did not cause.
        self.crashes = 0

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Leave a worker alone while the run itself kills it and starts it again."""
        with self._turn:
            self._held.add(name)
        try:
            yield
        finally:
            with self._turn:
                self._held.discard(name)

    def all_healthy(self) -> bool:
        """Tell whether every worker says that it serves."""
        return all(self._stage.is_healthy(name) for name in self._names)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            with self._turn:
                for name in set(self._names) - self._held:
                    self._look(name)

    def _look(self, name: str) -> None:
        service = self._stage.service(name)
        if service.pid is not None:
            return
        self.crashes += 1
        self._say(f"{name} has died by itself, and is started again. The end of its log:")
        self._say(read_tail(service.log))
        self._stage.start_role(name)
