"""A worker that copies its input to its output; run as a script, to be killed and frozen.

Its one argument is JSON: ``bootstrap``, ``prefix``, ``slot``; ``work`` (``batch`` or ``call``);
``seconds_per_message``; ``hang_every`` and ``release`` (each so-manyth id hangs until that file exists);
``started`` (a file to which the ids that processing has begun are appended); ``session_timeout_ms``;
``connect_timeout_ms``.
"""

import asyncio
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.messages import Message, Record
from workers.transactions import BatchWork, CallWork, LoopConfig, Start, TransactionLoop, Work


def main(options: dict[str, Any]) -> None:
    """Run the loop until SIGTERM."""
    logging.basicConfig(level=logging.WARNING)
    prefix = options["prefix"]
    config = LoopConfig(
        bootstrap=options["bootstrap"],
        group_id=f"{prefix}copy",
        transactional_id=f"{prefix}copy.{options['slot']}",
        topics=(f"{prefix}in",),
        topic_prefix=prefix,
        session_timeout_ms=options.get("session_timeout_ms", 1_500),
        transaction_timeout_ms=5_000,
        connect_timeout_ms=options.get("connect_timeout_ms", 3_000),
        max_poll_records=500,
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    TransactionLoop(config, make_work(options)).run(stop)


def wait_for(release: Path) -> None:
    """Hang until the file exists."""
    while not release.exists():
        time.sleep(0.05)


def make_work(options: dict[str, Any]) -> Work:
    """Choose how to copy."""
    output = f"{options['prefix']}out"
    started = Path(options["started"]).open("ab", buffering=0) if "started" in options else None  # noqa: SIM115
    pace = options.get("seconds_per_message", 0.0)

    def note(message: Message) -> None:
        if started and message.key:
            started.write(message.key + b"\n")

    def copy(message: Message, earlier: int = 0) -> list[Record]:
        headers = (*message.headers, ("earlier", str(earlier).encode()))
        return [Record(topic=output, key=message.key, value=message.value, headers=headers)]

    def handle_batch(batch: Sequence[Message]) -> list[list[Record]]:
        for message in batch:
            note(message)
        time.sleep(pace * len(batch))
        return [copy(message) for message in batch]

    async def handle_call(message: Message, start: Start) -> list[Record]:
        await start()
        note(message)
        number = int((message.key or b"-0").rsplit(b"-", 1)[1])
        await asyncio.sleep(pace)
        if number % options["hang_every"] == 0:
            await asyncio.to_thread(wait_for, Path(options["release"]))
        return copy(message, start.earlier)

    if options.get("work") == "call":
        return CallWork(handle_call, max_in_flight=1_000)
    return BatchWork(handle_batch, max_batch=200)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
