"""Watches this process and all that it starts: the peak of each one's memory, and its CPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

_LOOK_EVERY_S = 0.5
#: Processes below both are not worth a line.
_LEAST_CPU_S, _LEAST_MIB = 1.0, 100.0


@dataclass(slots=True)
class _Process:
    """What one process took since it was first seen."""

    name: str
    process: psutil.Process
    cpu_before_s: float
    cpu_s: float = 0.0
    peak_mib: float = 0.0

    def look(self) -> None:
        with self.process.oneshot():
            times = self.process.cpu_times()
            self.cpu_s = times.user + times.system - self.cpu_before_s
            self.peak_mib = max(self.peak_mib, self.process.memory_info().rss / 2**20)


@dataclass(slots=True)
class Family:
    """This process and all those that it started, as they come and go."""

    known: dict[int, _Process] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """Of all together, since each was first seen."""
        return sum(one.cpu_s for one in tuple(self.known.values()))

    def look(self) -> None:
        """Measure all."""
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                if process.pid not in self.known:
                    times = process.cpu_times()
                    name = "benchmark" if process == me else _name(process)
                    self.known[process.pid] = _Process(name, process, times.user + times.system)
                self.known[process.pid].look()
            except psutil.NoSuchProcess:
                continue  # it has ended since it was listed

    def describe(self, lines: int) -> list[dict[str, Any]]:
        """Give name, peak and CPU for each of so many lines; who computed most comes first."""
        return [
            {
                "name": one.name,
                "peak_rss_mib": round(one.peak_mib),
                "cpu_us_per_line": round(1e6 * one.cpu_s / lines),
            }
            for one in sorted(self.known.values(), key=lambda one: -one.cpu_s)
            if one.cpu_s > _LEAST_CPU_S or one.peak_mib > _LEAST_MIB
        ]


@contextmanager
def watching() -> Iterator[Family]:
    """Measure twice a second until the block ends, and once more then."""
    family, ended = Family(), threading.Event()
    family.look()

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            family.look()

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield family
    finally:
        ended.set()
        thread.join()
        family.look()


def _name(process: psutil.Process) -> str:
    """Name a process by what it runs."""
    words = process.cmdline()
    if "serve" in words:
        return words[words.index("serve") + 1]
    for mark, name in (("kafka.Kafka", "kafka"), ("workers.local.simulated", "simulated LLMs")):
        if mark in words:
            return name
    return process.name()
