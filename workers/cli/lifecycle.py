"""``uniroute llm onboard|promote|demote|drain|remove|journal``: an LLM's way in, and out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import FAILED, AsJson, open_engine, print_json, print_table, read_settings
from workers.errors import UsageError
from workers.storage.engine import transaction

if TYPE_CHECKING:
    from workers.lifecycle import Probed

Name = Annotated[str, typer.Argument(help="The LLM's name.")]
Reason = Annotated[str, typer.Option(help="Why, for the journal.")]
CanaryShare = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Of prompts, that a canary is offered to.")
]


def onboard(
    name: Name,
    *,
    labels: Annotated[
        Path,
        typer.Option(
            help='JSON lines of {"prompt": ..., "answer": ..., "checker": exact, numeric, choice, regex, '
            'json, listing or output}; with regex a "pattern".'
        ),
    ],
    most: Annotated[int, typer.Option(min=1, help="Labels to use, at most.")] = 400,
    fewest: Annotated[int, typer.Option(min=1, help="Labels to use before it may stop.")] = 20,
    tenant: Annotated[str, typer.Option(help="Who pays for the probes.")] = "default",
    patience_s: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for a batch.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of the order of the prompts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Probe an LLM, `llm add`ed with --probe, until it is known well enough; it is a shadow then.

    Needs an executor that serves. Prompts are asked in an order that holds each cluster by its share, a batch
    at a time, graded by their checkers, and no more than the routing decision needs.
    """
    import numpy as np

    from routing.learning import StoppingRule
    from workers.cli.files import read_references
    from workers.decision_ids import make_signer
    from workers.embedding.loading import open_for
    from workers.lifecycle import DispatchedProbes, probe
    from workers.prompts import count_tokens
    from workers.storage.cluster_maps import ClusterMaps

    settings, references = read_settings(), read_references(labels)
    signer = make_signer(settings)
    rule = StoppingRule(fewest=min(fewest, most), most=most)
    with open_engine(settings) as engine:
        with transaction(engine) as session:
            fitted = ClusterMaps(session).active()
        if fitted is None:
            raise UsageError("no cluster map is in force: run `uniroute map fit PROMPTS` first")
        embedder = open_for(
            fitted.cluster_map.fingerprint,
            backend=settings.embedder_backend,
            threads=settings.embedder_threads,
            folder=settings.embedders_folder,
        )
        embeddings = embedder.encode([one.prompt for one in references])
        with DispatchedProbes(
            settings,
            signer,
            name,
            references,
            cells=fitted.cluster_map.cells(embeddings),
            map_version=fitted.cluster_map.version,
            tenant=tenant,
            patience_s=patience_s,
        ) as probes:
            found = probe(
                engine,
                name,
                embeddings=embeddings,
                input_tokens=np.array([count_tokens(one.prompt) for one in references], dtype=np.float64),
                ask=probes.ask,
                rule=rule,
                seed=seed,
            )
    if as_json:
        print_json(found.as_json())
    else:
        _tell(found)


def promote(
    name: Name,
    *,
    share: CanaryShare = 0.05,
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Whatever it has shown.")] = False,
) -> None:
    """Take an LLM one step on: probe, shadow, canary, active. From draining: to what it was."""
    from workers.lifecycle import Conditions
    from workers.lifecycle import promote as step

    with open_engine(read_settings()) as engine:
        state = step(engine, name, conditions=Conditions(canary_share=share), reason=reason, force=force)
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
    typer.echo(f"Predicted error {found.error:.3f} [{low:.3f}, {high:.3f}]; it would win {found.share:.1%}.")
    typer.echo(
        "The routes are settled; it is a shadow: `uniroute llm promote` makes it a canary."
        if found.settled
        else "The labels ran out before the routes were settled; it is a shadow, judged with caution."
    )
