"""``uniroute dlq``: dead letters, and what becomes of them."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.console import AsJson, print_json, print_table, read_settings
from workers.errors import UsageError

if TYPE_CHECKING:
    from workers.dead_letters import DeadLetter, Filter, Handling

command = typer.Typer(no_args_is_help=True, help="List, show, redrive and drop dead letters.")

Ids = Annotated[list[str] | None, typer.Argument(help="Ids, as `dlq list` shows them.")]
OfClass = Annotated[str | None, typer.Option("--class", help="Only those of this error class.")]
OfLLM = Annotated[str | None, typer.Option("--llm", help="Only those that this LLM gave no answer to.")]
Since = Annotated[
    str | None, typer.Option(help="Only those from this time on: ISO 8601, with a zone or UTC.")
]
Until = Annotated[str | None, typer.Option(help="Only those before this time.")]
Everything = Annotated[bool, typer.Option("--all", help="All that wait; needed where nothing else is said.")]


@command.command("list")
def list_letters(
    *,
    error_class: OfClass = None,
    llm: OfLLM = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """List the dead letters that wait, oldest first."""
    from workers.dead_letters import read_letters

    letters = read_letters(read_settings(), _filter(error_class, llm, since, until))
    if as_json:
        print_json([_facts(letter) for letter in letters])
        return
    print_table(
        ["id", "class", "LLM", "attempts", "at", "problem"],
        [
            [
                letter.letter_id,
                letter.error_class,
                letter.llm,
                letter.attempts,
                f"{letter.at:%Y-%m-%d %H:%M:%S}",
                letter.sentence[:80],
            ]
            for letter in letters
        ],
        empty="No dead letter waits.",
    )


@command.command("show")
def show(letter_id: Annotated[str, typer.Argument(help="Its id, as `dlq list` shows it.")]) -> None:
    """Show one dead letter as JSON: why it is one, its headers and its value."""
    from workers.dead_letters import Filter, read_letters

    found = read_letters(read_settings(), Filter(ids=frozenset([letter_id])))
    if not found:
        raise UsageError(f"no dead letter with the id {letter_id[:200]!r} waits: see `uniroute dlq list`")
    letter = found[0]
    print_json(
        {
            **_facts(letter),
            "headers": {name: value.decode(errors="replace") for name, value in letter.message.headers},
            "value": (letter.message.value or b"").decode(errors="replace"),
        }
    )


@command.command("redrive")
def redrive(
    ids: Ids = None,
    *,
    reroute: Annotated[
        bool, typer.Option("--reroute", help="Decide anew, without the LLMs that gave no answer.")
    ] = False,
    everything: Everything = False,
    error_class: OfClass = None,
    llm: OfLLM = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters on their way again, each once, under the same prompt id."""
    wanted = _require(_filter(error_class, llm, since, until, ids), everything=everything)
    _handle(wanted, "redriven", reroute=reroute, as_json=as_json)


@command.command("drop")
def drop(
    ids: Ids = None,
    *,
    everything: Everything = False,
    error_class: OfClass = None,
    llm: OfLLM = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up: they are listed no more. The topic keeps them for its time."""
    wanted = _require(_filter(error_class, llm, since, until, ids), everything=everything)
    _handle(wanted, "dropped", reroute=False, as_json=as_json)


def _handle(wanted: "Filter", what: "Handling", *, reroute: bool, as_json: bool) -> None:
    from workers.dead_letters import handle_letters

    done, refused = handle_letters(read_settings(), wanted, what, reroute=reroute)
    if as_json:
        print_json(
            {
                what: [letter.letter_id for letter in done],
                "refused": [{"id": letter.letter_id, "problem": problem} for letter, problem in refused],
            }
        )
        return
    for letter, problem in refused:
        typer.echo(f"{letter.letter_id} is left as it is: {problem}.", err=True)
    typer.echo(f"{len(done)} {what}.")


def _filter(
    error_class: str | None,
    llm: str | None,
    since: str | None,
    until: str | None,
    ids: list[str] | None = None,
) -> "Filter":
    from workers.dead_letters import Filter

    return Filter(
        error_class=error_class,
        llm=llm,
        since=_read_time(since),
        until=_read_time(until),
        ids=frozenset(ids or ()),
    )


def _require(wanted: "Filter", *, everything: bool) -> "Filter":
    from workers.dead_letters import Filter

    if wanted == Filter() and not everything:
        raise UsageError("say which: ids, --class, --llm, --since, --until, or --all")
    return wanted


def _read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text[:40]!r} is no time: give ISO 8601, 2030-01-31T12:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _facts(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "id": letter.letter_id,
        "prompt_id": letter.message.id_bytes.decode(errors="replace"),
        "class": letter.error_class,
        "problem": letter.sentence,
        "llm": letter.llm,
        "failed": sorted(letter.failed),
        "attempts": letter.attempts,
        "spent_usd": letter.spent_usd,
        "origin": letter.origin,
        "at": letter.at.isoformat(),
        "cut": letter.cut,
    }
