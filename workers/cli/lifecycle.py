"""``uniroute llm onboard|promote|demote|drain|remove|journal``: an LLM's way in, and out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.probes import (
    JudgeInputPrice,
    JudgeKey,
    JudgeModel,
    JudgeOutputPrice,
    JudgeUrl,
    RunPrograms,
    read_graded,
    read_judge,
    read_traffic,
)
from workers.storage.engine import transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from routing.learning import StoppingRule
    from workers.cli.probes import ToAsk
    from workers.lifecycle import Probed
    from workers.settings import Settings

Name = Annotated[str, typer.Argument(help="The LLM's name.")]
Reason = Annotated[str, typer.Option(help="Why, for the journal.")]
CanaryShare = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Of prompts, that a canary is offered to.")
]


References = Annotated[
    Path | None,
    typer.Option(
        help='JSON lines of {"prompt": ..., "answer": ..., "checker": exact, numeric, choice, regex, json, '
        'listing, output, program or judge}; with regex a "pattern", with program a "stdin"; for a judge the '
        "answer may be left out."
    ),
]
FromTraffic = Annotated[
    bool,
    typer.Option(
        "--from-traffic",
        help="Copies of the newest live prompts in place of labels, graded by the judge; no caller gets "
        "their replies.",
    ),
]
CopiedShare = Annotated[float, typer.Option(min=0.0001, max=1.0, help="Of live prompts, that may be copied.")]
MaxUsd = Annotated[float | None, typer.Option(min=0.0, help="Stop before probes and their judge cost more.")]


def onboard(
    name: Name,
    *,
    labels: References = None,
    from_traffic: FromTraffic = False,
    share: CopiedShare = 0.1,
    max_usd: MaxUsd = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = "",
    judge_input_price: JudgeInputPrice = None,
    judge_output_price: JudgeOutputPrice = None,
    run_programs: RunPrograms = False,
    most: Annotated[int, typer.Option(min=1, help="Labels to use, at most.")] = 400,
    fewest: Annotated[int, typer.Option(min=1, help="Labels to use before it may stop.")] = 20,
    tenant: Annotated[str, typer.Option(help="Who pays for the probes.")] = "default",
    patience_s: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for a batch.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of the order of the prompts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Probe an LLM, `llm add`ed with --probe, until it is known well enough; it is a shadow then.

    Needs an executor that serves. Prompts are asked in an order that holds each cluster by its share, a batch
    at a time, graded by their checkers or by the judge, and no more than the routing decision needs. What
    judging costs is told and booked beside what the answers cost.
    """
    from routing.learning import StoppingRule

    judge = read_judge(judge_url, judge_model, judge_key, judge_input_price, judge_output_price)
    settings = read_settings()
    with open_engine(settings) as engine:
        if from_traffic:
            asked = read_traffic(engine, settings, name, judge, labels=labels, most=most, share=share)
        else:
            asked = read_graded(labels, judge, run_programs=run_programs)
        found = _probe(
            engine,
            settings,
            name,
            asked,
            lane={"tenant": tenant, "judge": judge, "patience_s": patience_s},
            rule=StoppingRule(fewest=min(fewest, most), most=most),
            max_usd=max_usd,
            seed=seed,
        )
    if as_json:
        print_json(found.as_json())
    else:
        _tell(found)


def _probe(
    engine: "Engine",
    settings: "Settings",
    name: str,
    asked: "Sequence[ToAsk]",
    *,
    lane: "Mapping[str, Any]",
    rule: "StoppingRule",
    max_usd: float | None,
    seed: int,
) -> "Probed":
    """Place the prompts in the map in force, and ask as many of them as the rule wants."""
    import numpy as np

    from workers.decision_ids import make_signer
    from workers.embedding.loading import open_configured
    from workers.lifecycle import Probe, ProbeLane, probe
    from workers.storage.cluster_maps import ClusterMaps

    signer = make_signer(settings)
    with transaction(engine) as session:
        cluster_map = ClusterMaps(session).require_active().cluster_map
    embeddings = open_configured(settings, cluster_map.fingerprint).encode([one.text for one in asked])
    probes = [
        Probe(llm=name, body=one.body, cells=tuple(cells), grade=one.grade, reference=one.reference)
        for one, cells in zip(asked, cluster_map.cells(embeddings).tolist(), strict=True)
    ]
    with ProbeLane(settings, signer, map_version=cluster_map.version, **lane) as opened:
        return probe(
            engine,
            name,
            texts=[one.text for one in asked],
            embeddings=embeddings,
            input_tokens=np.array([one.input_tokens for one in asked]),
            ask=lambda rows: opened.ask([probes[row] for row in rows]),
            rule=rule,
            max_usd=max_usd,
            seed=seed,
        )


def promote(
    name: Name,
    *,
    share: CanaryShare = 0.05,
    labels: Annotated[int, typer.Option(min=0, help="That a shadow needs.")] = 20,
    wins: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="A canary needs to win so much of what it was probed on, by the policies in force.",
        ),
    ] = 0.01,
    feedback: Annotated[
        int,
        typer.Option(min=2, help="Pieces of live feedback, no worse than predicted, that active needs."),
    ] = 30,
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Whatever it has shown.")] = False,
) -> None:
    """Take an LLM one step on: probe, shadow, canary, active. From draining: to what it was.

    What the step asked for and what the LLM has shown stands in the journal.
    """
    from workers.lifecycle import Conditions
    from workers.lifecycle import promote as step

    with open_engine(read_settings()) as engine:
        conditions = Conditions(labels=labels, share=wins, feedback=feedback, canary_share=share)
        state = step(engine, name, conditions=conditions, reason=reason, force=force)
    typer.echo(f"{name} is {state}.")


def demote(name: Name, *, share: CanaryShare = 0.05, reason: Reason = "") -> None:
    """Take an LLM one step back: active, canary, shadow, probe."""
    from workers.lifecycle import Conditions
    from workers.lifecycle import demote as step

    with open_engine(read_settings()) as engine:
        state = step(engine, name, conditions=Conditions(canary_share=share), reason=reason)
    typer.echo(f"{name} is {state}.")


def drain(name: Name, *, reason: Reason = "") -> None:
    """Give an LLM no new prompts; what is dispatched to it already is still answered."""
    from workers.lifecycle import drain as step

    with open_engine(read_settings()) as engine:
        state = step(engine, name, reason=reason)
    typer.echo(f"{name} is {state}.")


def remove(
    name: Name,
    *,
    patience_s: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for its answers.")] = 30.0,
    reason: Reason = "",
) -> None:
    """Drain an LLM, and retire it once all that was dispatched to it is answered."""
    from workers.lifecycle import await_quiet, retire
    from workers.lifecycle import drain as step

    settings = read_settings()
    with open_engine(settings) as engine:
        if step(engine, name, reason=reason) == "draining":
            if not await_quiet(settings, name, patience_s=patience_s):
                typer.echo(f"{name} is draining, and prompts wait for it still: remove it again later.")
                raise typer.Exit(FAILED)
            retire(engine, name, reason=reason)
    typer.echo(f"{name} is retired.")


def journal(
    name: Annotated[str | None, typer.Argument(help="One LLM; all of them if left out.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the steps of LLMs' life cycles, oldest first, with what each was taken on."""
    from workers.storage.llm_journal import LLMJournal

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        steps = LLMJournal(session).steps(name)
    if as_json:
        print_json(
            [
                {
                    "at": step.at,
                    "llm": step.llm,
                    "from": step.from_state,
                    "to": step.to_state,
                    "canary_share": step.standing.canary_share,
                    "cautious": step.standing.cautious,
                    "reason": step.reason,
                    "evidence": dict(step.evidence),
                }
                for step in steps
            ]
        )
        return
    print_table(
        ["at", "LLM", "from", "to", "why"],
        [
            [f"{step.at:%F %T}", step.llm, step.from_state or "-", step.to_state, step.reason]
            for step in steps
        ],
        empty="Nothing is in the journal.",
    )


def _tell(found: "Probed") -> None:
    low, high = found.error_interval
    score = "-" if found.mean_score is None else f"{found.mean_score:.3f}"
    typer.echo(
        f"{found.llm}: {found.labels_now} labels used ({found.labels} in all), {found.failures} probes "
        f"without an answer, {found.cost_usd:.6f} USD; mean score {score}."
    )
    if found.judge_usd:
        typer.echo(f"The judge was paid {found.judge_usd:.6f} USD beside that.")
    typer.echo(f"Predicted error {found.error:.3f} [{low:.3f}, {high:.3f}]; it would win {found.share:.1%}.")
    typer.echo(
        "The routes are settled; it is a shadow: `uniroute llm promote` makes it a canary."
        if found.settled
        else "The labels ran out before the routes were settled; it is a shadow, judged with caution."
    )
