"""Runs an endurance run from nothing to its report, and leaves no process behind."""

import math
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workers.local.chaos.accounts import count_repeated, read_ends
from workers.local.chaos.breakages import Breakage, plan_breakages
from workers.local.chaos.caller import Caller
from workers.local.chaos.options import Options
from workers.local.chaos.watch import Watch
from workers.local.demo.options import Options as StageOptions
from workers.local.demo.stage import Say, Stage
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import read_scenario
from workers.local.simulated.llms import LATE_LLM, POOL
from workers.settings import LIVE_ROLES

Report = dict[str, Any]

#: Not among the six that prompts are routed among.
_LEFT_OUT = (LATE_LLM, "sim-novice")
#: Answers with errors alone for a while.
_FAILING = "sim-abacus"
#: Something is whole again when this share of the prompts that were under way when it broke have ended: the
#: rest may wait for an LLM that hangs.
_RECOVERED_SHARE = 0.95
#: Not whole again after this long is never.
_PATIENCE_S = 180.0
#: Nothing ended for this long: what is open is lost.
_LOST_AFTER_S = 120.0
_LOOK_EVERY_S = 0.05
#: Prompts go on for so long after a thing should be mended.
_SLACK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that was broken."""

    #: Seconds since the first prompt.
    at_s: float
    what: str
    #: Seconds from the breaking until every worker served again and 95 % of the prompts that were under way
    #: then had ended; ``None`` if that never came.
    recovered_in_s: float | None


@dataclass(slots=True, kw_only=True)
class Scene:
    """The run so far, for whoever shows it."""

    total: int
    sent: int = 0
    ended: int = 0
    #: What is broken now, and since when (monotonic seconds).
    broken: str = ""
    broken_at: float = 0.0


Show = Callable[[Scene], None]


def run_chaos(options: Options, *, say: Say, show: Show) -> Report:
    """Run once in a temporary folder; everything started ends with the call, however it ends."""
    source = BuiltinSource(seed=options.seed, llms=[llm for llm in POOL if llm.name not in _LEFT_OUT])
    read_scenario(options.faults, llms=[llm.name for llm in source.llms])
    prompts = source.prompts("traffic", options.prompts)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-chaos-")))
        stage, names = _set_stage(options, source, folder=folder, stack=stack, say=say)
        with Watch(stage, names, say=say) as watch:
            breakages = plan_breakages(stage, watch, options, failing=_FAILING)
            say(f"Sending {len(prompts)} prompts to {len(source.llms)} simulated LLMs that fail now and then")
            caller = Caller(stage.settings, source, prompts, concurrency=options.concurrency)
            with caller:
                director = _Director(caller, watch, total=len(prompts), say=say, show=show)
                director.play(breakages)
                director.wait_for_the_rest()
        say("Stopping, and counting on the topics what came of every prompt")
        stage.stop_roles()
        ends = read_ends(stage.settings)
        ids = [prompt.prompt_id for prompt in prompts]
        return {
            "simulated": True,
            "llms": [llm.name for llm in source.llms],
            "prompts": len(prompts),
            "replies": ends.replies.total(),
            "dead_letters": ends.dead_letters.total(),
            "lost": ends.count_lost(ids),
            "duplicate_replies": ends.count_duplicates(ids),
            "repeated_calls": ends.repeated_calls,
            "repeated_calls_seen_by_llms": count_repeated(stage.read_calls()),
            "crashes_not_caused": watch.crashes,
            "seconds": round(director.seconds, 3),
            "events": [asdict(event) for event in director.events],
        }


def _set_stage(
    options: Options, source: BuiltinSource, *, folder: Path, stack: ExitStack, say: Say
) -> tuple[Stage, Sequence[str]]:
    """Start everything that the run breaks, and give the names of the workers; all of them serve."""
    stage = Stage(
        StageOptions(
            prompts=options.prompts,
            seed=options.seed,
            labels=options.labels,
            train=options.train,
            faults=options.faults,
        ),
        source,
        folder=folder,
        stack=stack,
        say=say,
        environment={
            "UNIROUTE_SESSION_TIMEOUT_MS": str(int(1000 * options.session_s)),
            "UNIROUTE_CALL_TIMEOUT_S": str(options.call_timeout_s),
        },
    )
    stage.start()
    stage.open_embedder()
    stage.launch_roles()
    names = [*LIVE_ROLES, stage.launch("executor", slot="1")]
    stage.learn()
    stage.join_late_llm()
    stage.await_roles()
    return stage, names


class _Director:
    """Lets traffic flow and breaks one thing after another, each when the one before is whole again."""

    def __init__(self, caller: Caller, watch: Watch, *, total: int, say: Say, show: Show) -> None:
        self._caller = caller
        self._watch = watch
        self._scene = Scene(total=total)
        self._say = say
        self._show = show
        self._begun = time.monotonic()
        self.events: list[Event] = []

    @property
    def seconds(self) -> float:
        """Since the first prompt."""
        return time.monotonic() - self._begun

    def play(self, breakages: Sequence[Breakage]) -> None:
        """Break everything in turn; each gets its share of the prompts, half of them before it breaks."""
        share = self._scene.total / (len(breakages) + 1)
        self._begun = time.monotonic()
        with ThreadPoolExecutor(1, thread_name_prefix="chaos-breakage") as pool:
            for number, breakage in enumerate(breakages):
                before = int(share * (number + 0.5))
                self._caller.allow(before)
                self._wait(lambda wanted=before: self._caller.sent >= wanted)  # type: ignore[misc]
                self._caller.allow(int(share * (number + 1)), within_s=breakage.lasts_s + _SLACK_S)
                self._break(breakage, pool)

    def wait_for_the_rest(self) -> None:
        """Let all prompts go, and wait until all have ended, or none has for long."""
        self._caller.allow(self._scene.total)
        self._wait(lambda: self._caller.ended >= self._scene.total, timeout_s=math.inf)

    def _break(self, breakage: Breakage, pool: ThreadPoolExecutor) -> None:
        under_way = self._caller.under_way()
        begun = time.monotonic()
        self._scene.broken, self._scene.broken_at = breakage.what, begun
        acting = pool.submit(breakage.act)

        def is_whole() -> bool:
            return acting.done() and self._have_ended(under_way) and self._watch.all_healthy()

        recovered = self._wait(is_whole, timeout_s=_PATIENCE_S)
        seconds = time.monotonic() - begun
        acting.result()
        self._scene.broken = ""
        event = Event(
            at_s=round(begun - self._begun, 3),
            what=breakage.what,
            recovered_in_s=round(seconds, 3) if recovered else None,
        )
        self.events.append(event)
        whole = f"whole again after {seconds:.1f} s" if recovered else f"not whole after {seconds:.0f} s"
        self._say(f"{breakage.what}, {len(under_way)} prompts under way: {whole}")

    def _have_ended(self, prompt_ids: Collection[str]) -> bool:
        return self._caller.count_open(prompt_ids) <= (1 - _RECOVERED_SHARE) * len(prompt_ids)

    def _wait(self, is_so: Callable[[], bool], *, timeout_s: float = _PATIENCE_S) -> bool:
        """Wait and show; ``False`` where it does not come to be in time, or nothing ends any more."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline or self._caller.idle_s > _LOST_AFTER_S:
                return False
            self._scene.sent, self._scene.ended = self._caller.sent, self._caller.ended
            self._show(self._scene)
            time.sleep(_LOOK_EVERY_S)
        return True
