"""Reads the files people hand to commands; what is wrong with one is said with its line."""

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from routing.errors import RoutingError
from routing.llms import Price
from workers.documents import load_document
from workers.errors import UsageError
from workers.graders import Reference

Line = TypeVar("Line", bound=msgspec.Struct)


class Label(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One prompt on which an LLM's answer was graded."""

    prompt: str
    #: Quality in 0..1: 1 is right.
    score: float


class Score(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One piece of feedback: of a decision, or of a prompt and an LLM."""

    #: Quality in 0..1: 1 is right.
    score: float
    decision_id: str = ""
    prompt: str = ""
    llm: str = ""
    source: str = ""
    feedback_id: str = ""
    tenant: str = ""
    correction: bool = False


class ScoredAnswer(msgspec.Struct, frozen=True):
    """An answer, or how sure its LLM was of it, with how good it was."""

    #: Quality in 0..1: 1 is right.
    score: float
    #: A chat completion, as JSON; ``null`` for none.
    answer: msgspec.Raw = msgspec.Raw(b"null")
    confidence: float | None = None
    #: Empty where all are of one LLM.
    llm: str = ""


class _PromptLine(msgspec.Struct):
    prompt: str


def read_labels(path: Path) -> list[Label]:
    """Read JSON lines of ``{"prompt": ..., "score": 0..1}``; ``UsageError`` names the line and the field."""
    labels = []
    for number, label in _read_lines(path, Label):
        if not 0.0 <= label.score <= 1.0:
            raise UsageError(f"{path}, line {number}: score is {label.score}, give a number from 0 to 1")
        labels.append(label)
    if not labels:
        raise UsageError(f"{path} holds no label: give a few hundred lines")
    return labels


def read_scores(path: Path) -> list[tuple[int, Score]]:
    """Read JSON lines of ``{"decision_id": ..., "score": 0..1}``, or of ``prompt``, ``llm`` and ``score``.

    Each with the number of its line; ``UsageError`` names the line and the field.
    """
    scores = list(_read_lines(path, Score))
    if not scores:
        raise UsageError(f"{path} holds no feedback")
    return scores


def read_answers(path: Path) -> list[ScoredAnswer]:
    """Read JSON lines of scored answers; ``UsageError`` names the line and the field."""
    answers = []
    for number, one in _read_lines(path, ScoredAnswer):
        if not 0.0 <= one.score <= 1.0:
            raise UsageError(f"{path}, line {number}: score is {one.score}, give a number from 0 to 1")
        if bytes(one.answer) == b"null" and one.confidence is None:
            raise UsageError(f"{path}, line {number}: give an answer, or a confidence")
        answers.append(one)
    return answers


def read_references(path: Path) -> list[Reference]:
    """Read JSON lines of ``{"prompt": ..., "answer": ..., "checker": ...}``; ``UsageError`` names one."""
    references = []
    for number, reference in _read_lines(path, Reference):
        try:
            reference.check()
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        references.append(reference)
    if not references:
        raise UsageError(f"{path} holds no prompt with an answer")
    return references


def read_prompts(path: Path) -> list[str]:
    """Read JSON lines of ``{"prompt": ...}``, other fields allowed; ``UsageError`` names the line."""
    prompts = [line.prompt for _, line in _read_lines(path, _PromptLine)]
    if not prompts:
        raise UsageError(f"{path} holds no prompt")
    return prompts


def read_prices(path: Path) -> dict[str, Price]:
    """Give the prices of the LLMs that a YAML file names: ``LLM: {input_usd_per_mtok: ..., ...}``.

    ``fixed_usd`` and ``cached_input_usd_per_mtok`` may be left out. ``UsageError`` names the LLM and the key.
    """
    found = load_document(path)
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{path} holds no price: give LLM: {{input_usd_per_mtok: ..., ...}}")
    prices = {}
    for name, values in found.items():
        try:
            prices[str(name)] = Price(**msgspec.convert(values, dict[str, float]))
        except (msgspec.ValidationError, RoutingError, TypeError) as error:
            known = ", ".join(field.name for field in fields(Price))
            raise UsageError(
                f"{path}: the price of {name} cannot be used ({error}); keys are {known}"
            ) from error
    return prices


def write_json(value: object, file: Path, *, option: str = "--report") -> None:
    """Write JSON to a file, its folder made if need be; ``UsageError`` if the place cannot be written."""
    text = json.dumps(value, indent=2, allow_nan=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option}: {file} cannot be written: {error.strerror}") from error


def read_moment(text: str | None) -> datetime | None:
    """Read ISO 8601, as UTC where it names no zone; ``UsageError`` for anything else."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time: give ISO 8601, 2030-01-31T12:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _read_lines(path: Path, kind: type[Line]) -> Iterator[tuple[int, Line]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    yield number, msgspec.json.decode(raw, type=kind)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise UsageError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
