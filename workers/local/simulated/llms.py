"""Simulated LLMs: price, latency and skill of each, and what it answers to a task."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from routing.llms import LLM, Price
from workers.local.simulated.answers import Outcome, estimate_tokens
from workers.local.simulated.tasks import Task

#: Share of the variance of "gets it right" that all LLMs have in common: hard for one, hard for all.
COMMON_DIFFICULTY = 0.3

_NORMAL = NormalDist()
_TOKEN_SPREAD = 0.25
_WORKING = (
    "Let me think about this step by step.",
    "First I read the question again to be sure what is asked.",
    "I go through the details one after the other and keep track of each of them.",
    "That leaves one possibility, which I check against the wording of the question.",
    "Nothing in the text speaks against it, so I am fairly confident.",
    "It helps to write down the intermediate steps before coming to a conclusion.",
    "A quick check in the other direction agrees with that.",
)
_CLOSINGS = ("The answer is {}.", "Answer: {}", "**{}**", "So the answer is {}.", "{}", "Final answer: {}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """How often an LLM is right on one family of tasks."""

    #: Probability at difficulty 1.
    easy: float
    #: What each further step of difficulty takes away.
    drop: float

    def probability(self, difficulty: int) -> float:
        """Probability of being right, within .02 and .99."""
        return min(0.99, max(0.02, self.easy - self.drop * (difficulty - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an LLM takes: a log-normal time to its first token, then so long for each token."""

    median_s: float
    #: Standard deviation of the logarithm.
    spread: float
    per_token_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedLLM:
    """An LLM that exists in numbers only."""

    name: str
    price: Price
    latency: Latency
    #: By family; ``usual`` is for the families that are not listed.
    skills: Mapping[str, Skill]
    usual: Skill
    #: Median output tokens at difficulty 1.
    verbosity: float

    @property
    def llm(self) -> LLM:
        """What a registry is told of it; ``simulated`` is set."""
        return LLM(
            name=self.name, price=self.price, simulated=True, expected_output_tokens=self.verbosity * 1.2
        )

    def probability(self, family: str, difficulty: int) -> float:
        """Probability of a right answer."""
        return self.skills.get(family, self.usual).probability(difficulty)


def is_right(llm: SimulatedLLM, task: Task, *, seed: int) -> bool:
    """Whether the LLM gets the task right: a hash decides, so every process agrees.

    Marginally right with ``llm.probability``; LLMs agree more than by chance, through one common
    factor per prompt (a Gaussian copula, ``COMMON_DIFFICULTY``).
    """
    common = _NORMAL.inv_cdf(_uniform(seed, task.prompt_id))
    own = _NORMAL.inv_cdf(_uniform(seed, task.prompt_id, llm.name))
    mixed = math.sqrt(COMMON_DIFFICULTY) * common + math.sqrt(1 - COMMON_DIFFICULTY) * own
    return _NORMAL.cdf(mixed) < llm.probability(task.family, task.difficulty)


def answer_task(llm: SimulatedLLM, task: Task, *, seed: int) -> Outcome:
    """Answer rightly or with a slip of the family's own, in as many words as the LLM makes."""
    right = is_right(llm, task, seed=seed)
    pick = _uniform(seed, task.prompt_id, llm.name, "wording")
    answer = task.answer if right else task.wrong[int(pick * len(task.wrong))]
    normal = _NORMAL.inv_cdf(_uniform(seed, task.prompt_id, llm.name, "length"))
    wanted = llm.verbosity * math.exp(_TOKEN_SPREAD * normal) * (1 + 0.1 * (task.difficulty - 1))
    text = _word(answer, task, wanted, pick)
    output_tokens = estimate_tokens(text)
    wait = _NORMAL.inv_cdf(_uniform(seed, task.prompt_id, llm.name, "latency"))
    latency = llm.latency
    return Outcome(
        score=1.0 if right else 0.0,
        text=text,
        input_tokens=estimate_tokens(task.prompt),
        output_tokens=output_tokens,
        latency_s=latency.median_s * math.exp(latency.spread * wait) + latency.per_token_s * output_tokens,
    )


def _word(answer: str, task: Task, wanted_tokens: float, pick: float) -> str:
    """Wrap an answer as LLMs do: talk up to the wanted length, then the answer in a usual form."""
    if task.checker == "json":
        closing = f"```json\n{answer}\n```" if pick < 1 / 2 else answer
    else:
        closing = _CLOSINGS[int(pick * len(_CLOSINGS))].format(answer)
    talk: list[str] = []
    start = int(pick * len(_WORKING))
    while estimate_tokens(" ".join((*talk, closing))) + _SENTENCE_TOKENS < wanted_tokens:
        talk.append(_WORKING[(start + len(talk)) % len(_WORKING)])
    return f"{' '.join(talk)}\n\n{closing}" if talk else closing


#: About half a sentence: the talk ends where another one would overshoot more than it fills.
_SENTENCE_TOKENS = 8


def _uniform(*parts: object) -> float:
    """Draw from (0, 1) by a hash of what it is drawn for: the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return (int.from_bytes(digest) + 0.5) / 2**56


def _skills(easy: float, drop: float, *families: str) -> dict[str, Skill]:
    return {family: Skill(easy=easy, drop=drop) for family in families}


def _make(
    name: str, *, prices: tuple[float, float], latency: tuple[float, float], verbosity: float,
    usual: tuple[float, float], skills: Mapping[str, Skill],
) -> SimulatedLLM:  # fmt: skip
    return SimulatedLLM(
        name=name,
        price=Price(input_usd_per_mtok=prices[0], output_usd_per_mtok=prices[1]),
        latency=Latency(median_s=latency[0], spread=0.35, per_token_s=latency[1]),
        skills=skills,
        usual=Skill(easy=usual[0], drop=usual[1]),
        verbosity=verbosity,
    )


#: The LLM that a demo registers half-way.
LATE_LLM = "sim-latecomer"
#: One strong and dear, one cheap and weak, one in between, four specialists and a late joiner. In its own
#: families a specialist beats the strong one; nobody else is good at logic or at JSON, nor, before the late
#: joiner comes, at code or sequences.
POOL: tuple[SimulatedLLM, ...] = (
    _make(
        "sim-abacus", prices=(0.40, 1.6), latency=(0.15, 0.002), verbosity=55, usual=(0.62, 0.06),
        skills=_skills(0.98, 0.02, "arithmetic", "unit_conversion", "counting"),
    ),
    _make(
        "sim-almanac", prices=(0.45, 1.8), latency=(0.18, 0.002), verbosity=45, usual=(0.64, 0.06),
        skills=_skills(0.99, 0.02, "lookup", "dates"),
    ),
    _make(
        "sim-clerk", prices=(0.30, 1.2), latency=(0.16, 0.002), verbosity=60, usual=(0.60, 0.06),
        skills=_skills(0.97, 0.02, "lookup", "formats") | _skills(0.84, 0.05, "json_extraction"),
    ),
    _make(
        "sim-generalist", prices=(1.00, 4.0), latency=(0.30, 0.003), verbosity=75, usual=(0.86, 0.06),
        skills={},
    ),
    _make(
        "sim-latecomer", prices=(0.50, 2.0), latency=(0.20, 0.002), verbosity=60, usual=(0.66, 0.05),
        skills=_skills(0.98, 0.02, "code_output", "sequences") | _skills(0.95, 0.03, "dates"),
    ),
    _make(
        "sim-maestro", prices=(3.00, 12.0), latency=(0.60, 0.006), verbosity=90, usual=(0.91, 0.04),
        skills=_skills(0.98, 0.02, "logic", "json_extraction") | _skills(0.96, 0.03, "code_output"),
    ),
    _make(
        "sim-novice", prices=(0.10, 0.4), latency=(0.08, 0.001), verbosity=40, usual=(0.65, 0.08), skills={},
    ),
    _make(
        "sim-scribe", prices=(0.30, 1.4), latency=(0.14, 0.002), verbosity=50, usual=(0.62, 0.06),
        skills=_skills(0.98, 0.02, "strings", "formats", "sorting"),
    ),
)  # fmt: skip
#: Dearer than most and worse than all: what nobody should adopt. No part of the pool.
WORSE_LLM = _make(
    "sim-dabbler", prices=(1.20, 4.8), latency=(0.25, 0.002), verbosity=70, usual=(0.50, 0.06), skills={},
)  # fmt: skip
