"""``uniroute feedback``: give scores, see who gives them, and leave a source out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.console import AsJson, open_engine, print_json, print_table, read_settings
from workers.cli.files import read_moment, read_scores
from workers.errors import UsageError

if TYPE_CHECKING:
    from workers.learner import Difference

command = typer.Typer(no_args_is_help=True, help="Give feedback, see who gives it, and leave a source out.")

SourceName = Annotated[str, typer.Option("--source", help="KIND or KIND:NAME; see `feedback sources`.")]
Yes = Annotated[bool, typer.Option("--yes", help="Apply it; without, only show what it would change.")]


@command.command("send")
def send(
    decision_id: Annotated[str, typer.Argument(help="As the reply gave it.")],
    score: Annotated[float, typer.Argument(help="1 is right, 0 is wrong.")],
    *,
    source: SourceName = "human",
    tenant: Annotated[str, typer.Option(help="On whose behalf.")] = "",
    correct: Annotated[bool, typer.Option("--correct", help="Replace what this source said before.")] = False,
) -> None:
    """Say how good an answer was."""
    from workers.client import Client

    with Client(app="cli-feedback", settings=read_settings()) as client:
        client.feedback(decision_id, score=score, source=source, tenant=tenant, correction=correct)
    typer.echo("Sent.")


@command.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON lines of decision_id and score, or of prompt, llm and score.")
    ],
    *,
    source: Annotated[str, typer.Option("--source", help="Of lines that name none.")] = "human",
) -> None:
    """Send a file of feedback; a line that cannot be used is named, and those before it are sent."""
    from workers.client import Client

    scores = read_scores(file)
    with Client(app="cli-feedback", settings=read_settings()) as client:
        for number, one in scores:
            try:
                if one.prompt or one.llm:
                    client.label(
                        one.prompt,
                        one.llm,
                        score=one.score,
                        source=one.source or source,
                        feedback_id=one.feedback_id,
                        tenant=one.tenant,
                    )
                else:
                    client.feedback(
                        one.decision_id,
                        score=one.score,
                        source=one.source or source,
                        feedback_id=one.feedback_id,
                        tenant=one.tenant,
                        correction=one.correction,
                    )
            except UsageError as error:
                raise UsageError(f"{file}, line {number}: {error}") from error
    typer.echo(f"{len(scores)} sent.")


@command.command("sources")
def sources(*, as_json: AsJson = False) -> None:
    """List who gives feedback: of which kind, how far believed, and what became of it."""
    from workers.storage.engine import transaction
    from workers.storage.sources import Sources

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        found, tallies = Sources(session).list(), Sources(session).tallies()
    if as_json:
        print_json(
            {
                name: {
                    "kind": one.kind,
                    "weight": one.base_weight,
                    "trust": one.trust,
                    "bias": one.bias,
                    "flagged": one.flagged,
                    "compared": one.compared,
                    "per_hour": one.per_hour,
                    "excluded_since": one.excluded_since,
                    "pieces": tallies.get(name, {}),
                }
                for name, one in found.items()
            }
        )
        return
    rows = [
        [
            name,
            one.kind,
            f"{one.base_weight:g}",
            "flagged" if one.flagged else f"{one.trust:.2f}",
            f"{one.bias:.3f}",
            tallies.get(name, {}).get("counted", 0),
            tallies.get(name, {}).get("excluded", 0),
            "" if one.excluded_since is None else "excluded",
        ]
        for name, one in found.items()
    ]
    columns = ["source", "kind", "weight", "trust", "bias", "counted", "left out", ""]
    print_table(columns, rows, empty="Nobody has given feedback yet.")


@command.command("declare")
def declare(
    name: Annotated[str, typer.Argument(help="As it stands in feedback.")],
    *,
    kind: Annotated[str, typer.Option(help="human, judge, checker or implicit.")],
    weight: Annotated[float | None, typer.Option(help="Of a label; its kind's if not given.")] = None,
    per_hour: Annotated[int | None, typer.Option(help="Pieces taken of it in any hour.")] = None,
) -> None:
    """Say what a source is, how much it weighs, and how much it may give."""
    from workers.storage.engine import transaction
    from workers.storage.journal import Journal
    from workers.storage.sources import Sources

    with open_engine(read_settings()) as engine, transaction(engine) as session:
        Sources(session).declare(name, kind=kind, weight=weight, per_hour=per_hour)  # type: ignore[arg-type]
        Journal(session).write("source declared", name, kind=kind, weight=weight, per_hour=per_hour)
    typer.echo(f"{name} is declared.")


@command.command("exclude")
def exclude(
    *,
    source: SourceName,
    since: Annotated[str | None, typer.Option(help="Only what came from then on, ISO 8601.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild what was learned without a source, and leave out what it gives from now on."""
    from workers.learner import exclude_source

    with open_engine(read_settings()) as engine:
        found = exclude_source(engine, source, since=read_moment(since), apply=yes)
    _show(found, f"of {source} left out", applied=yes, as_json=as_json)


@command.command("include")
def include(*, source: SourceName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Take a source in again, with all that was excluded of it."""
    from workers.learner import include_source

    with open_engine(read_settings()) as engine:
        found = include_source(engine, source, apply=yes)
    _show(found, f"of {source} taken in again", applied=yes, as_json=as_json)


def _show(found: "Difference", what: str, *, applied: bool, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json({**asdict(found), "applied": applied})
        return
    rows = [
        [
            one.llm,
            f"{one.labels_before:.1f}",
            f"{one.labels_after:.1f}",
            f"{one.error_before:.3f}",
            f"{one.error_after:.3f}",
            f"{one.largest_move:.3f}",
        ]
        for one in found.llms
    ]
    columns = ["LLM", "labels", "then", "error", "then", "largest move of a cell"]
    print_table(columns, rows, empty="No error rates are in force.")
    done = "Done" if applied else "Nothing is changed yet: --yes applies it"
    typer.echo(f"{found.pieces} pieces {what}. {done}.")
    if found.held is not None:
        typer.echo(
            f"Rates of version {found.held} are held, so none of this is in force before "
            "`uniroute rates release`."
        )
