"""``uniroute serve``: run one role, or all of them, in this process."""

import faulthandler
import os
import signal
from enum import StrEnum
from typing import Annotated

import typer

from workers import telemetry
from workers.cli.console import read_settings
from workers.settings import ROLES

command = typer.Typer()

#: On a machine that is shared with live roles, these get the cores first.
_BATCHER_NICENESS = 10


class Served(StrEnum):
    """What a process may serve."""

    ROUTER = "router"
    EXECUTOR = "executor"
    LEARNER = "learner"
    BATCHER = "batcher"
    ALL = "all"


@command.command("serve")
def serve(
    role: Annotated[Served, typer.Argument(help="The role to run.")],
    slot: Annotated[
        str | None, typer.Option(help="Tells processes of one role apart; keep it across restarts.")
    ] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of /healthz and /metrics; 0 for none.")] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Serve until SIGTERM or Ctrl-C; ends within 10 s, with nothing lost and nothing done twice."""
    import faust

    from workers.app import create_app

    faulthandler.register(signal.SIGUSR1)  # kill -USR1 shows where every thread stands
    telemetry.configure_logs(level=log_level.upper())
    roles = ROLES if role is Served.ALL else (role.value,)
    settings = read_settings(roles=roles, worker_slot=slot, web_port=web_port)
    if role is Served.BATCHER:
        os.nice(_BATCHER_NICENESS)  # before there is any other thread: each one has its own
    worker = faust.Worker(create_app(settings), loglevel="warn", quiet=True)
    # Its handler would have every library write its DEBUG records: a twentieth of a busy process.
    worker.spinner = None
    worker.execute_from_commandline()
