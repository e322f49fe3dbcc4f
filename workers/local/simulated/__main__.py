"""Run the simulated LLMs as a process: ``python -m workers.local.simulated --seed 0 --port 0``.

Prints one JSON line, ``{"url": ..., "base_url": ..., "pid": ...}``, when it accepts connections. Ends at once
on SIGTERM or SIGINT, and within half a second when its parent has gone.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from workers.errors import UsageError
from workers.local.simulated.answers import AnswerSource
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import Scenario, read_scenario
from workers.local.simulated.llms import POOL, WORSE_LLM
from workers.local.simulated.playback import PlaybackSource
from workers.local.simulated.server import SimulatedServer

_WATCH_SECONDS = 0.25
_USAGE_EXIT_CODE = 2


def main() -> int:
    """Serve until told to end; 0, or 2 with one sentence where the arguments cannot be served."""
    arguments = _parse()
    try:
        source = _open_source(arguments)
        scenario = Scenario()
        if arguments.faults is not None:
            scenario = read_scenario(arguments.faults, llms=[llm.name for llm in source.llms])
        server = SimulatedServer(source, scenario=scenario, latency_scale=arguments.latency_scale)
        asyncio.run(_serve(server, port=arguments.port, parent=arguments.parent))
    except (UsageError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return _USAGE_EXIT_CODE
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.local.simulated", description="Serve simulated LLMs on 127.0.0.1."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--source", choices=["builtin"], default="builtin", help="the built-in tasks")
    source.add_argument("--outcomes", type=Path, metavar="DIR", help="play the recorded outcomes of a folder")
    parser.add_argument(
        "--worse", action="store_true", help=f"with the built-in tasks: {WORSE_LLM.name} too, which errs most"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the tasks and of who gets them right")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="a fault scenario in TOML or JSON")
    parser.add_argument("--latency-scale", type=float, default=1.0, help="0 answers at once")
    parser.add_argument(
        "--parent", type=int, default=os.getppid(), help="the process to end with; default: the parent"
    )
    return parser.parse_args()


def _open_source(arguments: argparse.Namespace) -> AnswerSource:
    if arguments.outcomes is not None:
        return PlaybackSource.read(arguments.outcomes, seed=arguments.seed)
    if arguments.worse:
        return BuiltinSource(seed=arguments.seed, llms=(*POOL, WORSE_LLM))
    return BuiltinSource(seed=arguments.seed)


async def _serve(server: SimulatedServer, *, port: int, parent: int) -> None:
    """Serve until a signal comes or the parent goes."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    url = await server.start(port=port)
    sys.stdout.write(json.dumps({"url": url, "base_url": f"{url}/v1", "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    while not ended.is_set() and os.getppid() == parent:
        try:
            await asyncio.wait_for(ended.wait(), _WATCH_SECONDS)
        except TimeoutError:
            continue
    await server.stop()


if __name__ == "__main__":
    sys.exit(main())
