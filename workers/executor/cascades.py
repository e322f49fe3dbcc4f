"""Cascades as an executor runs them: how sure an LLM was of its answer, and whether another is asked."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from routing.errors import InvalidInputError
from routing.policies.cascade import Action, Calibration, CascadeRule
from workers.errors import PoisonError
from workers.messages import CASCADE, HELD_ANSWER

#: What an endpoint is asked for, so that it tells how sure it was.
ASKED = {"logprobs": True, "top_logprobs": 2}


class CascadeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The value of the header that asks for a cascade."""

    #: Taken from this chance of being right on.
    accept_at: float
    abstain_below: float = 0.0
    #: ``mean-logprob`` of the answer's tokens, or ``first-margin``: by how much the first token's log
    #: probability exceeds that of the next likely one.
    measure: Literal["mean-logprob", "first-margin"] = "mean-logprob"
    #: Knots of the calibration: confidences ascending, with the chance of being right at each.
    confidences: tuple[float, ...] = (-1.0, 0.0)
    chances: tuple[float, ...] = (0.0, 1.0)


class HeldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was not sure enough, with the LLM that gave it and the chance that it is right."""

    llm: str
    chance: float | None
    value: msgspec.Raw


class _TopToken(msgspec.Struct):
    logprob: float


class _Token(msgspec.Struct):
    logprob: float
    top_logprobs: list[_TopToken] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class Cascade:
    """Judges answers by how sure their LLM was."""

    def __init__(self, spec: CascadeSpec) -> None:
        self._measure = spec.measure
        self._rule = CascadeRule(accept_at=spec.accept_at, abstain_below=spec.abstain_below)
        self._calibration = Calibration(np.array(spec.confidences), np.array(spec.chances))

    def chance(self, answer: bytes) -> float | None:
        """Give the chance that an answer is right; ``None`` where its endpoint told no log probabilities."""
        try:
            completion = msgspec.json.decode(answer, type=_Completion)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        found = completion.choices[0].logprobs if completion.choices else None
        confidence = _measure(self._measure, (found.content or []) if found is not None else [])
        return None if confidence is None else self._calibration.chance(confidence)

    def judge(self, chance: float | None, *, is_last: bool) -> Action:
        """Say what becomes of an answer; an unknown chance is no trust while another can be asked."""
        if chance is None:
            return "accept" if is_last else "escalate"
        return self._rule.judge(chance, is_last=is_last)


def read_cascade(text: str | None) -> Cascade | None:
    """Read the header; ``PoisonError`` of class ``bad_header`` for one that cannot be."""
    if not text:
        return None
    try:
        return Cascade(msgspec.json.decode(text, type=CascadeSpec))
    except (msgspec.MsgspecError, InvalidInputError) as error:
        raise PoisonError("bad_header", f"header {CASCADE} cannot be used: {error}") from error


def read_held(header: bytes | None) -> HeldAnswer | None:
    """Read the header; ``PoisonError`` of class ``bad_header`` for one that no executor wrote."""
    if header is None:
        return None
    try:
        return msgspec.json.decode(header, type=HeldAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PoisonError("bad_header", f"header {HELD_ANSWER} cannot be read") from error


def better_held(held: HeldAnswer | None, other: HeldAnswer) -> HeldAnswer:
    """Give the likelier of two answers, the other where that is not known."""
    if held is None or held.chance is None or (other.chance or 0.0) >= held.chance:
        return other
    return held


def asking_for_confidence(body: dict[str, Any]) -> dict[str, Any]:
    """Give a body that asks for log probabilities too."""
    return {**body, **ASKED}


def _measure(measure: str, tokens: Sequence[_Token]) -> float | None:
    if not tokens:
        return None
    if measure == "mean-logprob":
        value = sum(token.logprob for token in tokens) / len(tokens)
    else:
        others = sorted((one.logprob for one in tokens[0].top_logprobs), reverse=True)[1:]
        if not others:
            return None
        value = tokens[0].logprob - others[0]
    return value if math.isfinite(value) else None
