"""The built-in answer source: drawn tasks, answered by the pool of simulated LLMs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from types import MappingProxyType

import numpy as np

from routing.costs import call_cost
from routing.errors import UnknownLLMError
from routing.llms import LLM
from workers.errors import UsageError
from workers.graders import grade
from workers.local.simulated.answers import (
    Outcome,
    Prompt,
    Split,
    Truth,
    generic_outcome,
)
from workers.local.simulated.llms import LATE_LLM, POOL, WORSE_LLM, SimulatedLLM, answer_task
from workers.local.simulated.tasks import Task, draw_task, find_task

#: Prompts of one split; the next split begins after so many.
SPLIT_SIZE = 1_000_000
#: So many prompts of each split are also found by their text alone.
FOUND_BY_TEXT = 4_000
_SPLITS: Mapping[Split, int] = MappingProxyType({"train": 0, "label": 1, "traffic": 2})


class BuiltinSource:
    """Tasks drawn from a seed; see :class:`~.answers.AnswerSource` for the promises."""

    def __init__(self, *, seed: int = 0, llms: Sequence[SimulatedLLM] = POOL) -> None:
        self._seed = seed
        self._simulated = {llm.name: llm for llm in sorted(llms, key=lambda llm: llm.name)}
        self._llms = tuple(llm.llm for llm in self._simulated.values())
        self._task = lru_cache(maxsize=65_536)(lambda prompt_id: find_task(prompt_id, seed=seed))

    @property
    def name(self) -> str:
        """What reports call the source."""
        return f"built-in tasks, seed {self._seed}"

    @property
    def llms(self) -> tuple[LLM, ...]:
        """The pool, sorted by name."""
        return self._llms

    @property
    def late_llm(self) -> str:
        """The LLM that is worse than the pool, if it is there; else the pool's late joiner, else the last."""
        known = [name for name in (WORSE_LLM.name, LATE_LLM) if name in self._simulated]
        return known[0] if known else self._llms[-1].name

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything is simulated; tokens are counted as four characters."""
        return (
            "All LLMs are simulated: their skills, prices and latencies are invented.",
            "Tokens are counted as four characters each.",
        )

    def prompts(self, split: Split, n: int) -> tuple[Prompt, ...]:
        """Give the first ``n`` prompts of a split's sequence."""
        return tuple(self.draw(split, n))

    def draw(self, split: Split, n: int) -> Iterator[Prompt]:
        """Give the same, one after the other: a million of them fill no memory."""
        if not 0 <= n <= SPLIT_SIZE:
            raise UsageError(f"a split of the built-in tasks gives 0 to {SPLIT_SIZE} prompts, not {n}")
        return (self.prompt(split, place) for place in range(n))

    def prompt(self, split: Split, place: int) -> Prompt:
        """Give the prompt at a place, from 0, of a split's sequence."""
        task = draw_task(self._seed, _SPLITS[split] * SPLIT_SIZE + place)
        return Prompt(prompt_id=task.prompt_id, text=task.prompt, family=task.family)

    def knows(self, prompt_id: str) -> bool:
        """Whether the id is one of this seed's tasks."""
        return self._task(prompt_id) is not None

    def find(self, text: str) -> str | None:
        """Find one of the first ``FOUND_BY_TEXT`` prompts of each split; the first call takes a second."""
        return self._ids_by_text.get(text)

    def answer(self, llm: str, prompt_id: str | None, text: str) -> Outcome:
        """Answer by the LLM's skill at the task's family and difficulty."""
        simulated = self._simulated.get(llm)
        if simulated is None:
            raise UnknownLLMError(llm, tuple(self._simulated))
        task = self._task(prompt_id) if prompt_id is not None else None
        return generic_outcome(text) if task is None else answer_task(simulated, task, seed=self._seed)

    def grade(self, prompt_id: str, reply: str) -> float:
        """Check the reply's final answer."""
        task = self._task(prompt_id)
        return 0.0 if task is None else grade(task, reply)

    def truth(self, prompt_ids: Sequence[str]) -> Truth:
        """Work out every LLM's outcome."""
        tasks = [self._known(prompt_id) for prompt_id in prompt_ids]
        shape = (len(tasks), len(self._llms))
        scores, costs = np.zeros(shape), np.zeros(shape)
        for row, task in enumerate(tasks):
            for column, llm in enumerate(self._llms):
                outcome = answer_task(self._simulated[llm.name], task, seed=self._seed)
                scores[row, column] = outcome.score
                costs[row, column] = call_cost(
                    llm.price, input_tokens=outcome.input_tokens, output_tokens=outcome.output_tokens
                )
        return Truth(scores=scores, costs_usd=costs)

    @cached_property
    def _ids_by_text(self) -> dict[str, str]:
        ids: dict[str, str] = {}
        for split in _SPLITS:
            for prompt in self.prompts(split, FOUND_BY_TEXT):
                ids.setdefault(prompt.text, prompt.prompt_id)
        return ids

    def _known(self, prompt_id: str) -> Task:
        task = self._task(prompt_id)
        if task is None:
            raise KeyError(prompt_id)
        return task
