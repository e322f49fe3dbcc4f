"""Cascades as an executor runs them: how sure an LLM was of its answer, and whether another is asked."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from routing.errors import InvalidInputError
from routing.policies.cascade import Action, choose_next
from workers.cascades import CascadeSpec, Measure, Scorer
from workers.errors import PoisonError
from workers.messages import CASCADE, HELD_ANSWER

#: What an endpoint is asked for, so that it tells how sure it was.
_ASKED = {"logprobs": True, "top_logprobs": 2}


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
    """Judges answers by how likely they are right, and says who is asked next.

    Raises ``InvalidInputError`` for a rule that cannot be.
    """

    def __init__(self, spec: CascadeSpec) -> None:
        self._spec = spec
        self._rule = spec.rule
        spec.calibration("")

    @property
    def scorer(self) -> Scorer | None:
        """Who is asked how likely an answer is right; ``None`` where its own log probabilities tell."""
        return self._spec.judge

    @property
    def by_gain(self) -> bool:
        """Whether the next LLM is the one that adds most for its cost, rather than the next in order."""
        return self._spec.error_per_usd is not None

    @property
    def weighs_all(self) -> bool:
        """Whether the last LLM's answer is weighed too."""
        return self._spec.weighs_all

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Give a body that asks for what its answer is judged by, too."""
        return body if self._spec.measure == "scorer" else {**body, **_ASKED}

    def confidence(self, answer: bytes) -> float | None:
        """Give how sure an LLM was by its log probabilities; ``None`` where its endpoint told none."""
        return read_confidence(self._spec.measure, answer)

    def chance(self, llm: str, confidence: float | None) -> float | None:
        """Give the chance that an LLM's answer is right; ``None`` where nothing says so."""
        curve = self._spec.calibration(llm)
        return None if curve is None or confidence is None else curve.chance(confidence)

    def judge(self, chance: float | None, *, is_last: bool) -> Action:
        """Say what becomes of an answer; an unknown chance is no trust while another can be asked."""
        if chance is None:
            return "accept" if is_last else "escalate"
        return self._rule.judge(chance, is_last=is_last)

    def next_llm(self, chance: float | None, names: Sequence[str]) -> str | None:
        """Give who is asked after answers of which the best is right with this chance; unknown counts as 0.

        ``names`` are those who can be asked, in order. ``None`` where there is nobody, or by gain nobody is
        worth its cost.
        """
        asked = self._spec.candidates
        if not self.by_gain:
            members = {one.llm for one in asked}
            return next((name for name in names if not asked or name in members), None)
        there = [one for one in asked if one.llm in names]
        best = choose_next(
            chance or 0.0,
            np.array([one.error for one in there]),
            np.array([one.cost_usd for one in there]),
            error_per_usd=self._spec.error_per_usd or 0.0,
        )
        return None if best is None else there[best].llm


def read_cascade(text: str | None) -> Cascade | None:
    """Read a dispatch's header; ``PoisonError`` of class ``bad_header`` for one that cannot be."""
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


def read_confidence(measure: Measure, answer: bytes) -> float | None:
    """Give how sure an LLM was of an answer by the answer itself; ``None`` where that does not tell."""
    try:
        completion = msgspec.json.decode(answer, type=_Completion)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    found = completion.choices[0].logprobs if completion.choices else None
    return _measure(measure, (found.content or []) if found is not None else [])


def _measure(measure: Measure, tokens: Sequence[_Token]) -> float | None:
    if not tokens or measure == "scorer":
        return None
    if measure == "mean-logprob":
        value = sum(token.logprob for token in tokens) / len(tokens)
    else:
        others = sorted((one.logprob for one in tokens[0].top_logprobs), reverse=True)[1:]
        if not others:
            return None
        value = tokens[0].logprob - others[0]
    return value if math.isfinite(value) else None
