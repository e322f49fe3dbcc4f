"""Play recorded outcomes back: each LLM answers a prompt with the score and the tokens it once had."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routing.errors import UnknownLLMError
from routing.llms import LLM, Price
from workers.errors import UsageError
from workers.local.simulated.answers import Outcome, Prompt, Split, Truth, estimate_tokens, generic_outcome
from workers.outcomes import OutcomeSet, read_outcomes

#: Output tokens of every answer where none are recorded: they then say nothing of one LLM against another.
ASSUMED_OUTPUT_TOKENS = 150
#: Outcome folders record no latency: so long for the first token, so long for each.
ASSUMED_LATENCY_S = (0.2, 0.003)

_SPLITS: Mapping[Split, str] = MappingProxyType({"train": "train", "label": "val", "traffic": "test"})


class PlaybackSource:
    """Recorded outcomes; see :class:`~.answers.AnswerSource` for the promises.

    Prompts without a score of every LLM are left out. A reply is a small JSON object that says it is
    simulated, names the prompt and carries the recorded score: ``grade`` gives exactly that score. Raises
    ``UsageError`` for a folder without prices.
    """

    def __init__(self, outcomes: OutcomeSet, *, seed: int = 0) -> None:
        if not outcomes.prices:
            raise UsageError(
                f"models.csv of {outcomes.name} lists no prices: fill in_usd_per_mtok and out_usd_per_mtok to"
                " play it back"
            )
        self._outcomes = outcomes
        self._seed = seed
        self._rows = {outcomes.prompt_ids[row]: int(row) for row in np.flatnonzero(outcomes.complete)}
        self._columns = {name: column for column, name in enumerate(outcomes.llms)}
        prices = [outcomes.prices[name] for name in outcomes.llms]
        self._prices = tuple(
            Price(input_usd_per_mtok=p.input_usd_per_mtok, output_usd_per_mtok=p.output_usd_per_mtok)
            for p in prices
        )
        self._input_tokens = self._count_input()
        self._output_tokens = self._count_output()
        self._llms = tuple(self._describe(column) for column in range(len(outcomes.llms)))

    @classmethod
    def read(cls, folder: Path, *, seed: int = 0) -> Self:
        """Read an outcome folder; raises ``UsageError`` where it cannot be read, or without pyarrow."""
        return cls(read_outcomes(folder), seed=seed)

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"recorded outcomes of {self._outcomes.name}"

    @property
    def llms(self) -> tuple[LLM, ...]:
        """The recorded LLMs, sorted by name, with their list prices."""
        return self._llms

    @cached_property
    def late_llm(self) -> str:
        """The LLM furthest above the line from the cheapest to the best one on training prompts."""
        train = self.truth([prompt.prompt_id for prompt in self.prompts("train", len(self._rows))])
        scores, costs = train.scores.mean(axis=0), train.costs_usd.mean(axis=0)
        best, cheapest = int(scores.argmax()), int(costs.argmin())
        slope = (scores[best] - scores[cheapest]) / max(costs[best] - costs[cheapest], 1e-12)
        worth = scores - slope * costs
        worth[best] = -math.inf
        return self._llms[int(worth.argmax())].name

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed: latency always, tokens where the folder has none."""
        notes = ["All LLMs are simulated: their recorded scores and token counts are played back."]
        seconds, per_token = ASSUMED_LATENCY_S
        notes.append(f"Latency is assumed: {seconds:g} s and {1000 * per_token:g} ms for each output token.")
        if np.isnan(self._outcomes.input_tokens).any():
            notes.append("Input tokens that are not recorded are counted as four characters each.")
        if self._outcomes.cost_source != "recorded USD" and np.isnan(self._outcomes.output_tokens).any():
            notes.append(f"Output tokens that are not recorded are taken to be {ASSUMED_OUTPUT_TOKENS}.")
        return tuple(notes)

    def prompts(self, split: Split, n: int) -> tuple[Prompt, ...]:
        """Give ``n`` prompts of a split in a seeded random order, or all where the folder holds fewer."""
        if n < 0:
            raise UsageError(f"a number of prompts is at least 0, not {n}")
        wanted = (self._outcomes.splits == _SPLITS[split]) & self._outcomes.complete
        rows = np.random.default_rng(self._seed).permutation(np.flatnonzero(wanted))[:n]
        ids, texts, domains = self._outcomes.prompt_ids, self._outcomes.texts, self._outcomes.domains
        return tuple(Prompt(prompt_id=ids[row], text=texts[row], family=domains[row]) for row in rows)

    def knows(self, prompt_id: str) -> bool:
        """Whether the folder holds the prompt with all its outcomes."""
        return prompt_id in self._rows

    def find(self, text: str) -> str | None:
        """Give the first prompt with this text."""
        return self._ids_by_text.get(text)

    def answer(self, llm: str, prompt_id: str | None, text: str) -> Outcome:
        """Play back what the LLM scored and used."""
        column = self._columns.get(llm)
        if column is None:
            raise UnknownLLMError(llm, self._outcomes.llms)
        row = None if prompt_id is None else self._rows.get(prompt_id)
        if prompt_id is None or row is None:
            return generic_outcome(text)
        score = float(self._outcomes.scores[row, column])
        output_tokens = int(self._output_tokens[row, column])
        seconds, per_token = ASSUMED_LATENCY_S
        reply = {"simulated": True, "llm": llm, "prompt_id": prompt_id, "recorded_score": score}
        return Outcome(
            score=score,
            text=json.dumps(reply),
            input_tokens=int(self._input_tokens[row, column]),
            output_tokens=output_tokens,
            latency_s=seconds + per_token * output_tokens,
        )

    def grade(self, prompt_id: str, reply: str) -> float:
        """Take the recorded score from a reply to this prompt; 0 for any other text."""
        try:
            played = json.loads(reply)
        except (ValueError, RecursionError):
            return 0.0
        if not isinstance(played, dict) or played.get("prompt_id") != prompt_id:
            return 0.0
        score = played.get("recorded_score")
        return score if isinstance(score, float) and 0.0 <= score <= 1.0 else 0.0

    def truth(self, prompt_ids: Sequence[str]) -> Truth:
        """Give recorded scores, and costs as the played-back tokens are priced."""
        rows = np.array([self._rows[prompt_id] for prompt_id in prompt_ids], dtype=np.intp)
        costs = [
            self._input_tokens[rows, column] * price.input_usd_per_mtok
            + self._output_tokens[rows, column] * price.output_usd_per_mtok
            for column, price in enumerate(self._prices)
        ]
        return Truth(scores=self._outcomes.scores[rows], costs_usd=np.stack(costs, axis=1) / 1e6)

    def cost_gap(self) -> float:
        """Largest difference, in USD per call, between what played-back tokens cost and what is recorded.

        0.0 where the folder records no costs.
        """
        if self._outcomes.cost_source != "recorded USD":
            return 0.0
        ids = list(self._rows)
        recorded = self._outcomes.costs_usd[[self._rows[prompt_id] for prompt_id in ids]]
        return float(np.abs(self.truth(ids).costs_usd - recorded).max(initial=0.0))

    @cached_property
    def _ids_by_text(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for prompt_id, row in self._rows.items():
            found.setdefault(self._outcomes.texts[row], prompt_id)
        return found

    def _count_input(self) -> NDArray[np.int64]:
        estimated = np.array([estimate_tokens(text) for text in self._outcomes.texts], dtype=np.float64)
        recorded = self._outcomes.input_tokens
        return np.rint(np.where(np.isnan(recorded), estimated[:, None], recorded)).astype(np.int64)

    def _count_output(self) -> NDArray[np.int64]:
        """Count output tokens such that their price, with the input's, is the recorded cost."""
        recorded = self._outcomes.output_tokens
        tokens = np.where(np.isnan(recorded), float(ASSUMED_OUTPUT_TOKENS), recorded)
        if self._outcomes.cost_source == "recorded USD":
            per_input = np.array([price.input_usd_per_mtok for price in self._prices])
            per_output = np.array([price.output_usd_per_mtok for price in self._prices])
            left = self._outcomes.costs_usd * 1e6 - self._input_tokens * per_input
            implied = np.divide(left, per_output, out=tokens.copy(), where=per_output > 0)
            tokens = np.where(np.isnan(implied), tokens, implied)
        return np.maximum(np.rint(tokens), 0).astype(np.int64)

    def _describe(self, column: int) -> LLM:
        rows = list(self._rows.values())
        return LLM(
            name=self._outcomes.llms[column],
            price=self._prices[column],
            simulated=True,
            expected_output_tokens=float(self._output_tokens[rows, column].mean()) if rows else 0.0,
        )
