"""What is typed wrongly is told in one plain line, by every command, and ends with exit code 2."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command

from workers.cli import console
from workers.cli.main import MODULES, command
from workers.errors import UsageError, WaitableError


def every_command() -> list[tuple[str, ...]]:
    """The words of each command, groups included."""
    root: Any = get_command(command)

    def walk(found: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(found, "commands", {}).items():
            yield from walk(inner, (*words, name))

    return [words for name in (*MODULES, "version") for words in walk(root.get_command(None, name), (name,))]


def run(*words: str) -> int:
    """Run the command line and give its exit code."""
    with pytest.raises(SystemExit) as ended:
        console.run(command, words)
    return int(ended.value.code or 0)


def test_every_command_tells_of_an_option_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line that begins as every error does, and names the help of the command that was meant."""
    for words in every_command():
        code = run(*words, "--nonsense")
        said = capsys.readouterr()

        assert (code, said.out) == (2, ""), words
        assert said.err.count("\n") == 1, words
        assert said.err.startswith("uniroute: No such option: --nonsense"), words
        assert f"{' '.join(words)} --help)" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("send",), "Missing argument 'prompt'"),
        (("serve", "nobody"), "Invalid value for 'role': 'nobody' is not one of"),
        (("send", "x", "--max-cost-usd", "much"), "Invalid value for '--max-cost-usd'"),
        (("send", "--tenant"), "requires an argument"),
        (("version", "more"), "Got unexpected extra argument"),
    ],
)
def test_other_mistakes_are_told_alike(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, no box, no usage."""
    code, said = run(*words), capsys.readouterr()

    assert (code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert said.err.startswith("uniroute: ")
    assert sentence in said.err


@pytest.mark.parametrize("words", [(), ("policy",)])
def test_where_nothing_is_typed_the_help_is_shown(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """With the exit code of a mistake: nothing was done."""
    code, said = run(*words), capfd.readouterr()

    assert code == 2
    assert "Usage:" in said.out + said.err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UsageError("no such thing"), 2, "uniroute: no such thing\n"),
        (WaitableError("Kafka", "is away"), 1, "uniroute: Kafka is away: is away\n"),
        (typer.Abort(), 1, "uniroute: aborted\n"),
        (typer.Exit(7), 7, ""),
        (KeyboardInterrupt(), 130, ""),
        (None, 0, ""),
    ],
)
def test_how_a_command_ends(
    raised: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what it raises."""
    one = typer.Typer()

    @one.command()
    def do() -> None:
        if raised is not None:
            raise raised

    with pytest.raises(SystemExit) as ended:
        console.run(one, [])

    assert ended.value.code == code
    assert capsys.readouterr().err == said
