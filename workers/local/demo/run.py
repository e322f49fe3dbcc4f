"""Runs the demonstration from nothing to its report, and leaves no process behind."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, func, select

from workers.errors import UsageError
from workers.local.demo.joining import Joining
from workers.local.demo.options import Options
from workers.local.demo.replaying import decide_again
from workers.local.demo.report import Report, build_report
from workers.local.demo.stage import Say, Stage
from workers.local.demo.traffic import Auditor, Tally, Traffic
from workers.local.simulated.answers import AnswerSource
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import read_scenario
from workers.local.simulated.llms import POOL, WORSE_LLM
from workers.local.simulated.playback import PlaybackSource
from workers.messages import DecisionRecord
from workers.reading import read_all
from workers.storage.engine import transaction
from workers.storage.tables import ErrorRateVersionRow, FeedbackRow
from workers.topics import Topics

#: Feedback that is not counted this long after the last reply is reported as not applied.
_SETTLE_SECONDS = 30.0


def run_demo(options: Options, *, say: Say, show: Callable[[Tally], None]) -> Report:
    """Run once in a temporary folder; everything started ends with the call, however it ends."""
    source = open_source(options)
    check_faults(options, source)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uniroute-demo-")))
        stage = Stage(options, source, folder=folder, stack=stack, say=say)
        stage.start()
        stage.open_embedder()
        stage.launch_roles()
        stage.learn()
        stage.await_roles()
        auditor = stack.enter_context(Auditor(stage.settings))
        traffic = Traffic(options, source, stage.settings)

        def disturb() -> None:
            stage.kill_role("router")
            stage.start_role("router")

        joining = Joining(stage, source, worse=options.join == "worse")
        prompts = source.prompts("traffic", options.prompts)
        say(f"Sending {len(prompts)} prompts; {source.late_llm} (simulated) joins half-way")
        tally = traffic.run(prompts, join=joining.join, disturb=disturb, show=show)
        feedback_applied = _await_feedback(stage.engine, tally.feedback)
        joining.conclude()
        stage.stop_roles()
        traffic.recount()
        report = build_report(
            source,
            traffic,
            auditor,
            feedback_applied=feedback_applied,
            error_rate_versions=_count(stage.engine, ErrorRateVersionRow),
            dead_letters=auditor.count_dead_letters(),
        )
        if joined := joining.describe():
            joined["prompts_while_probed"] = traffic.sent_while_probed
            joined["held_s"] = round(traffic.held_s, 2)
        else:
            report["notes"].append(f"{source.late_llm} did not join: {joining.held_back}")
        report["joined"] = joined
        if options.replay_check:
            say("Deciding everything again from what was logged")
            report["replay"] = _replay(stage)
        return report


def _replay(stage: Stage) -> dict[str, Any]:
    logged = read_all(stage.settings, [Topics(stage.settings.topic_prefix).decisions])
    records = [msgspec.json.decode(record.value, type=DecisionRecord) for record in logged]
    return decide_again(stage.engine, records)


def open_source(options: Options) -> AnswerSource:
    """Give what the simulated LLMs answer from."""
    if options.outcomes is not None:
        if options.join == "worse":
            raise UsageError("an LLM that is worse joins with the built-in tasks alone, not with --outcomes")
        return PlaybackSource.read(options.outcomes)
    if options.join == "worse":
        return BuiltinSource(seed=options.seed, llms=(*POOL, WORSE_LLM))
    return BuiltinSource(seed=options.seed)


def check_faults(options: Options, source: AnswerSource) -> None:
    """Raise ``UsageError`` for a scenario that the simulated LLMs would refuse, before anything starts."""
    if options.faults is not None:
        read_scenario(options.faults, llms=[llm.name for llm in source.llms])


def _await_feedback(engine: Engine, sent: int) -> int:
    """Wait until what was sent is counted, or long enough; give what is counted."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (applied := _count(engine, FeedbackRow)) < sent and time.monotonic() < deadline:
        time.sleep(0.1)
    return applied


def _count(engine: Engine, table: type[ErrorRateVersionRow] | type[FeedbackRow]) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
