"""Scenario ``poison``: what lying sources do to routes, and whether they are found out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from routing.evaluation import Trial
from routing.learning import KIND_WEIGHTS, combine_counts
from routing.quality.counts import ErrorCounts
from routing.quality.forgetting import DEFAULT_HALF_LIFE
from workers.learner import Belief, weigh_evidence
from workers.scenarios.findings import Measure, ScenarioFindings, mean_of, share_of
from workers.scenarios.stage import Matrix, Rows, Run, Stage, Vector
from workers.storage.sources import Source, SourceKind

#: Five sources that each score a fifth of the feedback. The liar is of the most trusted kind.
SOURCES: Mapping[str, SourceKind] = MappingProxyType(
    {"desk": "human", "graders": "human", "liar": "human", "model": "judge", "tests": "checker"}
)
LIAR = "liar"
#: Feedback per LLM, at most; val prompts are scored once each.
FEEDBACK = 1_000
#: Share of a judge's scores that are wrong by chance, lies or not.
JUDGE_NOISE = 0.1
#: How often, while feedback comes in, trust is estimated to see when the liar is flagged.
_LOOKS = 20

#: *flip*: good is called bad and bad good. *promote*: one LLM is always right, its rivals always wrong.
Lie = Literal["flip", "promote"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feedback:
    """m pieces of feedback on U LLMs, in the order in which they came."""

    rows: Rows
    llms: Rows
    #: Positions in the sorted names of ``SOURCES``.
    sources: Rows
    errors: Vector

    def part(self, chosen: slice | NDArray[np.bool_]) -> "Feedback":
        """Give some of it."""
        return Feedback(
            rows=self.rows[chosen],
            llms=self.llms[chosen],
            sources=self.sources[chosen],
            errors=self.errors[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    clean: float
    #: Area under each attack.
    attacked: Mapping[str, float]
    flagged: Mapping[str, bool]
    honest_flagged: int
    #: Its feedbacks when the flipping liar was flagged; NaN if never.
    flagged_after: float


def simulate_poison(
    stage: Stage, *, trials: int = 40, seed: int = 0, run: Run[_Outcome] = map
) -> ScenarioFindings:
    """Teach each trial's unseen LLMs by five sources, honest or not, and compare the routes."""
    drawn = stage.draw(trials, seed)
    found = list(run(partial(_try, stage=stage, drawn=drawn, seed=seed), range(trials)))
    honest = (len(SOURCES) - 1) * len(found)
    after = [one.flagged_after for one in found if np.isfinite(one.flagged_after)]
    measures = [
        mean_of("Area, all honest", [one.clean for one in found]),
        _moved("a fifth of every source's feedback are lies", "spread", found, limit=0.01),
        _moved("a source's lies are a fifth of all feedback", "half", found, limit=0.01),
        _moved("one source of five always lies", "flip", found, limit=0.02),
        _moved("one source of five promotes the worst LLM", "promote", found, limit=0.02),
        _moved("one source of five always lies, nobody doubted", "believed", found, limit=None),
        _share("always lies: flagged", [one.flagged["flip"] for one in found], promise="all"),
        _share("promotes: flagged", [one.flagged["promote"] for one in found], promise="all"),
        share_of("honest sources flagged", sum(one.honest_flagged for one in found), 3 * honest),
    ]
    if after:
        measures.append(
            Measure(name="its feedbacks when flagged, median", value=float(np.median(after)), unit="count")
        )
    return ScenarioFindings(
        scenario="poison",
        dataset=stage.dataset,
        trials=trials,
        seed=seed,
        protocol=(
            f"Unseen third of the LLMs, up to {FEEDBACK} feedbacks each, dealt among {', '.join(SOURCES)}; "
            f"judges err in {JUDGE_NOISE:.0%} by chance. Moved: Area less the Area of the honest run."
        ),
        measures=tuple(measures),
    )


def _moved(name: str, attack: str, found: list[_Outcome], *, limit: float | None) -> Measure:
    moves = [one.attacked[attack] - one.clean for one in found]
    return mean_of(
        f"moved: {name}",
        moves,
        promise=None if limit is None else f"< {limit:g} either way",
        kept=None if limit is None else abs(float(np.mean(moves))) < limit,
    )


def _share(name: str, hits: list[bool], *, promise: str) -> Measure:
    return share_of(name, sum(hits), len(hits), promise=promise, kept=all(hits))


def _try(number: int, *, stage: Stage, drawn: list[Trial], seed: int) -> _Outcome:
    trial, rng = drawn[number], np.random.default_rng([seed, number, 2])
    prior = stage.fit_prior(trial.known)
    costs = stage.costs[np.ix_(stage.val, trial.unseen)].mean(axis=0)
    n_llms = len(trial.unseen)

    def area(counts: ErrorCounts) -> float:
        rates = prior.error_rates(counts.errors, counts.labels)
        return stage.area(trial, stage.predict(stage.test, rates), costs)

    honest = _gather(stage, trial, rng)
    worst = int(stage.errors[np.ix_(stage.val, trial.unseen)].mean(axis=0).argmax())
    lied = {
        "flip": _lie(honest, 1.0, "flip", worst, rng),
        "promote": _lie(honest, 1.0, "promote", worst, rng),
        # Two fifths of the feedback is the liar's, every second of it a lie.
        "half": _lie(_give_more(honest, 0.4, rng), 0.5, "flip", worst, rng),
        "spread": _lie_everywhere(honest, 0.2, rng),
    }
    learned = {attack: learn(stage, feedback, n_llms) for attack, feedback in lied.items()}
    believed = combine_counts(
        _by_source(stage, lied["flip"], n_llms), {name: KIND_WEIGHTS[kind] for name, kind in SOURCES.items()}
    )
    return _Outcome(
        clean=area(learn(stage, honest, n_llms).counts),
        attacked={attack: area(one.counts) for attack, one in learned.items()} | {"believed": area(believed)},
        flagged={attack: one.trust[LIAR].flagged for attack, one in learned.items()},
        honest_flagged=sum(
            learned[attack].trust[name].flagged
            for attack in ("flip", "promote", "half")
            for name in SOURCES
            if name != LIAR
        ),
        flagged_after=_first_flagged(stage, lied["flip"], n_llms),
    )


def learn(stage: Stage, feedback: Feedback, n_llms: int) -> Belief:
    """Fold feedback of one day into counts as learners do: each source as far as it is trusted."""
    shape = (sum(stage.sizes), n_llms)
    return weigh_evidence(
        ErrorCounts(errors=np.zeros(shape), labels=np.zeros(shape)),
        [_by_source(stage, feedback, n_llms)],
        {name: Source(name=name, kind=kind) for name, kind in SOURCES.items()},
        n_groups=stage.sizes[0],
        half_life=DEFAULT_HALF_LIFE,
    )


def _by_source(stage: Stage, feedback: Feedback, n_llms: int) -> dict[str, ErrorCounts]:
    counts = {}
    for position, name in enumerate(sorted(SOURCES)):
        own = feedback.part(feedback.sources == position)
        if len(own.rows):
            counts[name] = stage.count_feedback(own.rows, own.llms, own.errors, n_llms=n_llms)
    return counts


def _gather(stage: Stage, trial: Trial, rng: np.random.Generator) -> Feedback:
    """Each of up to ``FEEDBACK`` val prompts gets one score per LLM, of a source drawn by lot."""
    prompts = stage.val[trial.label_order[:FEEDBACK]]
    n_llms = len(trial.unseen)
    rows, llms = np.repeat(prompts, n_llms), np.tile(np.arange(n_llms), len(prompts))
    order = rng.permutation(len(rows))
    rows, llms = rows[order], llms[order]
    sources = rng.integers(len(SOURCES), size=len(rows))
    errors = stage.errors[rows, trial.unseen[llms]].copy()
    judges = np.isin(sources, [at for at, name in enumerate(sorted(SOURCES)) if SOURCES[name] == "judge"])
    slips = judges & (rng.random(len(rows)) < JUDGE_NOISE)
    errors[slips] = 1.0 - errors[slips]
    return Feedback(rows=rows, llms=llms, sources=sources, errors=errors)


def _give_more(feedback: Feedback, share: float, rng: np.random.Generator) -> Feedback:
    """Let the liar give this share of all feedback, the others the rest."""
    at = sorted(SOURCES).index(LIAR)
    others = feedback.sources != at
    own = 1.0 - others.mean()
    taken = others & (rng.random(len(others)) < (share - own) / (1.0 - own))
    return replace(feedback, sources=np.where(taken, at, feedback.sources))


def _lie(feedback: Feedback, share: float, lie: Lie, favourite: int, rng: np.random.Generator) -> Feedback:
    """Let the liar lie in this share of its feedback."""
    lies = (feedback.sources == sorted(SOURCES).index(LIAR)) & (rng.random(len(feedback.rows)) < share)
    told: Matrix = 1.0 - feedback.errors if lie == "flip" else (feedback.llms != favourite).astype(np.float64)
    return replace(feedback, errors=np.where(lies, told, feedback.errors))


def _lie_everywhere(feedback: Feedback, share: float, rng: np.random.Generator) -> Feedback:
    """Flip this share of all scores, whoever gave them."""
    lies = rng.random(len(feedback.rows)) < share
    return replace(feedback, errors=np.where(lies, 1.0 - feedback.errors, feedback.errors))


def _first_flagged(stage: Stage, feedback: Feedback, n_llms: int) -> float:
    """Give the liar's feedbacks at the first look at which it was flagged; NaN if at none."""
    at = sorted(SOURCES).index(LIAR)
    for look in range(1, _LOOKS + 1):
        seen = feedback.part(slice(0, len(feedback.rows) * look // _LOOKS))
        trust = learn(stage, seen, n_llms).trust
        if LIAR in trust and trust[LIAR].flagged:
            return float((seen.sources == at).sum())
    return float("nan")
