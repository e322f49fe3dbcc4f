"""``uniroute llm sample``: a second LLM asked beside the routes, on a budget of its own."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import open_engine, print_json, read_settings
from workers.cli.interrupts import Interrupts
from workers.cli.probes import (
    JudgeInputPrice,
    JudgeKey,
    JudgeModel,
    JudgeOutputPrice,
    JudgeUrl,
    RunPrograms,
    read_graded,
    read_judge,
)
from workers.errors import UsageError
from workers.storage.engine import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routing.clusters import ClusterMap
    from workers.cli.probes import ToAsk
    from workers.lifecycle import KnownAnswer, LiveReader, Sampled, Sampler
    from workers.settings import Settings

_POLL_MS = 500


def sample(
    *,
    max_usd_per_day: Annotated[
        float, typer.Option(min=0.0, help="USD of a UTC day for answers and judge together.")
    ],
    share: Annotated[float, typer.Option(min=0.0001, max=1.0, help="Of live prompts, copied.")] = 0.02,
    labels: Annotated[
        Path | None,
        typer.Option(help="Stored prompts, as for `llm onboard`, for LLMs that `drift status` wants probed."),
    ] = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = "",
    judge_input_price: JudgeInputPrice = None,
    judge_output_price: JudgeOutputPrice = None,
    run_programs: RunPrograms = False,
    tenant: Annotated[str, typer.Option(help="Who pays.")] = "default",
    for_s: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after so many seconds; if left out, at Ctrl-C.")
    ] = None,
    patience_s: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for a batch.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the draw of second LLMs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sums as JSON at the end.")] = False,
) -> None:
    """Ask a second LLM beside the routes until stopped: counter-evidence, and probes of LLMs that changed.

    Copies of live prompts, which need a judge, and the prompts of --labels go to LLMs on the probe lane;
    nobody is sent a reply, and the scores count as feedback of judge:sampling and checker:sampling. What it
    costs is booked under `sampling`. Prompts of a tenant with --no-exploration are never copied. It stops
    asking once the day's budget is spent, and begins again the next day; to end it, stop the process.
    """
    import numpy as np

    from workers.decision_ids import make_signer
    from workers.lifecycle import SAMPLING, LiveReader, ProbeLane, Sampler, SamplingRule
    from workers.storage.cluster_maps import ClusterMaps

    judge = read_judge(judge_url, judge_model, judge_key, judge_input_price, judge_output_price)
    if judge is None and labels is None:
        raise UsageError("give a judge for copies of live prompts, --labels FILE for probes, or both")
    asked = [] if labels is None else read_graded(labels, judge, run_programs=run_programs)
    settings = read_settings()
    signer = make_signer(settings)
    with open_engine(settings) as engine:
        with transaction(engine) as session:
            cluster_map = ClusterMaps(session).require_active().cluster_map
        with (
            ProbeLane(
                settings,
                signer,
                map_version=cluster_map.version,
                tenant=tenant,
                judge=judge,
                purpose=SAMPLING,
                patience_s=patience_s,
            ) as lane,
            LiveReader(settings) as reader,
        ):
            sampler = Sampler(
                engine=engine,
                settings=settings,
                lane=lane,
                rule=SamplingRule(usd_per_day=max_usd_per_day, share=share),
                judge=judge,
                known=_place(settings, cluster_map, asked) if asked else [],
                rng=np.random.default_rng(seed),
            )
            _run(sampler, reader, for_s=for_s, as_json=as_json)


def _place(settings: "Settings", cluster_map: "ClusterMap", asked: "Sequence[ToAsk]") -> "list[KnownAnswer]":
    """Place stored prompts in the map in force."""
    from workers.embedding.loading import open_configured
    from workers.lifecycle import KnownAnswer

    embeddings = open_configured(settings, cluster_map.fingerprint).encode([one.text for one in asked])
    return [
        KnownAnswer(
            body=one.body,
            input_tokens=one.input_tokens,
            cells=tuple(cells),
            grade=one.grade,
            reference=one.reference,
        )
        for one, cells in zip(asked, cluster_map.cells(embeddings).tolist(), strict=True)
    ]


def _run(sampler: "Sampler", reader: "LiveReader", *, for_s: float | None, as_json: bool) -> None:
    """Step until it is time or a signal comes; tell the sums."""
    steps: list[Sampled] = []

    def step() -> None:
        found = sampler.step(*reader.poll(timeout_ms=_POLL_MS))
        steps.append(found)
        if found.asked and not as_json:
            typer.echo(f"{found.asked} asked, {found.scored} scored, {found.usd:.6f} USD")

    end = None if for_s is None else time.monotonic() + for_s
    work = Interrupts().heeding(step) if end is None else step
    try:
        while end is None or not steps or time.monotonic() < end:
            work()
    except KeyboardInterrupt:
        pass  # the way to end it
    asked, scored = sum(one.asked for one in steps), sum(one.scored for one in steps)
    usd, left_out = sum(one.usd for one in steps), sum(one.unaffordable for one in steps)
    if as_json:
        print_json({"asked": asked, "scored": scored, "usd": usd, "unaffordable": left_out})
    else:
        typer.echo(f"In all {asked} asked, {scored} scored, {usd:.6f} USD; {left_out} beyond the budget.")
