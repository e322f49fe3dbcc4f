"""What is broken in an endurance run, in order, and how it is mended."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from workers.local.chaos.options import Options
from workers.local.chaos.watch import Watch
from workers.local.demo.stage import Stage
from workers.local.simulated.faults import ServerError, read_scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """One thing to break."""

    #: What is broken, and how.
    what: str
    #: About how many seconds it stays broken.
    lasts_s: float
    #: Breaks it, and returns when it is mended: running, if not yet serving.
    act: Callable[[], None]


def plan_breakages(stage: Stage, watch: Watch, options: Options, *, failing: str) -> Sequence[Breakage]:
    """Give what to break; ``failing`` is the LLM that answers with errors alone for a while."""
    return (
        _kill(stage, watch, "executor"),
        _kill(stage, watch, "executor-1"),
        _freeze(stage, "executor", options.frozen_s),
        _kill(stage, watch, "router"),
        _freeze(stage, "router", options.frozen_s),
        Breakage(what="the broker is killed by SIGKILL", lasts_s=5.0, act=lambda: _restart_broker(stage)),
        Breakage(
            what=f"Postgres is away for {options.away_s:g} s",
            lasts_s=options.away_s,
            act=lambda: _take_postgres_away(stage, options.away_s),
        ),
        Breakage(
            what=f"{failing} (simulated) answers with errors alone for {options.failing_s:g} s",
            lasts_s=options.failing_s,
            act=lambda: _fail_llm(stage, options, failing),
        ),
    )


def _kill(stage: Stage, watch: Watch, name: str) -> Breakage:
    def act() -> None:
        with watch.hold(name):
            stage.kill_role(name)
            stage.start_role(name)

    return Breakage(what=f"{name} is killed by SIGKILL", lasts_s=1.0, act=act)


def _freeze(stage: Stage, name: str, seconds: float) -> Breakage:
    def act() -> None:
        stage.service(name).freeze()
        try:
            time.sleep(seconds)
        finally:
            stage.service(name).wake()

    return Breakage(what=f"{name} is frozen for {seconds:g} s, past its session", lasts_s=seconds, act=act)


def _restart_broker(stage: Stage) -> None:
    stage.local.kafka.kill()
    stage.local.kafka.start()


def _take_postgres_away(stage: Stage, seconds: float) -> None:
    stage.local.postgres.stop()
    try:
        time.sleep(seconds)
    finally:
        stage.local.postgres.start()


def _fail_llm(stage: Stage, options: Options, llm: str) -> None:
    usual = read_scenario(options.faults)
    failing = ServerError(llms=(llm,), status=503)
    stage.set_faults(msgspec.structs.replace(usual, fault=(failing, *usual.fault)))
    try:
        time.sleep(options.failing_s)
    finally:
        stage.set_faults(usual)
