"""What answers prompts in a simulation: one Protocol over drawn tasks and recorded outcomes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from routing.llms import LLM

#: ``train``: to fit cluster maps; ``label``: to learn error rates; ``traffic``: to route.
Split = Literal["train", "label", "traffic"]

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt that a source can answer and grade."""

    prompt_id: str
    text: str
    #: What it is about: a family of tasks, or a domain of the recorded outcomes.
    family: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one LLM makes of one prompt; the same in every process and every time."""

    #: The grade of ``text``, in 0..1.
    score: float
    text: str
    input_tokens: int
    output_tokens: int
    #: Seconds until the answer is complete.
    latency_s: float

    @property
    def right(self) -> bool:
        """Whether the answer gets the full score."""
        return self.score == 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Every LLM's outcome on n prompts: what a run is measured against."""

    #: (n, H), in 0..1; columns as in ``AnswerSource.llms``.
    scores: NDArray[np.float64]
    #: (n, H), USD: tokens times price, as a caller of the server pays.
    costs_usd: NDArray[np.float64]


class AnswerSource(Protocol):
    """Simulated LLMs, the prompts they know and how well they answer."""

    @property
    def name(self) -> str:
        """What reports call the source."""

    @property
    def llms(self) -> tuple[LLM, ...]:
        """The LLMs sorted by name, each with ``simulated`` set."""

    @property
    def late_llm(self) -> str:
        """The LLM to leave out at first, so that its joining shows."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What about the numbers is assumed rather than given, one sentence each."""

    def prompts(self, split: Split, n: int) -> tuple[Prompt, ...]:
        """Give at most ``n`` prompts of a split, always the same ones; no prompt is in two splits."""

    def knows(self, prompt_id: str) -> bool:
        """Whether the id is that of a prompt of this source."""

    def find(self, text: str) -> str | None:
        """Give the id of the prompt with this text; ``None`` if it is not known."""

    def answer(self, llm: str, prompt_id: str | None, text: str) -> Outcome:
        """Answer a prompt; one without a known id gets a generic answer and score 0.

        Raises :class:`~routing.errors.UnknownLLMError`.
        """

    def grade(self, prompt_id: str, reply: str) -> float:
        """Score a reply in 0..1; 0 for a prompt that is not known."""

    def truth(self, prompt_ids: Sequence[str]) -> Truth:
        """Give all LLMs' outcomes on prompts of this source; raises ``KeyError`` for any other id."""


def estimate_tokens(text: str) -> int:
    """Count tokens as four characters each, at least one: a simulation has no tokenizer of its own."""
    return max(1, math.ceil(len(text) / _CHARACTERS_PER_TOKEN))


def generic_outcome(text: str) -> Outcome:
    """Answer a prompt that no source knows, politely and without a score."""
    reply = (
        "This is a simulated LLM. Your prompt is not one of those it has answers for, so here is a reply"
        " of the usual length without any content that could be graded."
    )
    return Outcome(
        score=0.0,
        text=reply,
        input_tokens=estimate_tokens(text),
        output_tokens=estimate_tokens(reply),
        latency_s=_GENERIC_SECONDS,
    )


_GENERIC_SECONDS = 0.2
