"""Scenario ``drift``: how soon a worse LLM is noticed, how seldom one in vain, and whether it comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from routing.evaluation import Trial
from routing.learning import KEEP_AFTER_CHANGE, Alarm, DriftRule, Watch, follow_llm, spread_lambdas
from routing.learning.drift import Change, Standing
from routing.policies import Candidates, Exploration, Lagrangian, probabilities_of
from routing.quality.counts import ErrorCounts
from routing.quality.forgetting import forget_counts
from routing.quality.pool_prior import PoolPrior
from workers.scenarios.findings import Measure, ScenarioFindings, rate_of, share_of
from workers.scenarios.stage import Matrix, Rows, Run, Stage, Vector

#: Of an LLM's error, and feedbacks within which it should be noticed.
JUMP, WITHIN = 0.2, 150
#: Labels at the start, feedback before the jump, and feedback of each run without one.
LABELS, BEFORE, CALM = 100, 1_500, 5_000
#: Feedbacks between two refits.
REFIT_EVERY = 25
#: Prompts of each phase when traffic is routed (as before, broken, mended); routed between two refits.
PHASE, BLOCK = 1_500, 50
#: Exploration in that traffic.
EXPLORED = 0.05
#: Answers asked for beside the reply, of LLMs that got worse, and of those that return.
PROBED: Mapping[Standing, float] = MappingProxyType({"steady": 0.0, "worse": 0.1, "returning": 0.25})
#: An LLM is used again when its share of this many prompts is at least half its share before, or half of what
#: it would be were all outcomes known, where that is less: what luck gave it before does not come back.
_SHARE_OF, _LEAST_SHARE = 300, 0.5
#: Only an LLM that answers so much rightly can fall by the jump and still be itself.
_LEAST_QUALITY = JUMP + 0.1


@dataclass(slots=True, eq=False)
class _Tracked:
    """One LLM as the learner sees it: counts that forget, the rates from them, and the watch on its feedback.

    The watch predicts from counts that forget nothing but what came before an alarm: what forgets learns a
    change before it is noticed.
    """

    stage: Stage
    prior: PoolPrior
    llm: int
    counts: ErrorCounts
    rule: DriftRule
    watch: Watch = field(default_factory=Watch)
    #: Alarms for the worse.
    worsened: int = 0
    #: Of ``counts``; ``None`` until they are asked for.
    rates: Matrix | None = None
    lasting: ErrorCounts = field(init=False)
    lasting_rates: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.lasting = self.counts
        self._refit()

    def _refit(self) -> None:
        self.rates = None
        self.lasting_rates = self.prior.error_rates(self.lasting.errors, self.lasting.labels)

    def predict(self, rows: Rows) -> Vector:
        """Predict (m,) errors, as routers do."""
        if self.rates is None:
            self.rates = self.prior.error_rates(self.counts.errors, self.counts.labels)
        return self._predict(rows, self.rates)

    def _predict(self, rows: Rows, rates: Matrix) -> Vector:
        return np.clip(self.stage.predict(rows, rates)[:, 0], 0.0, 1.0)

    def learn(self, rows: Rows, errors: Vector) -> Alarm | None:
        """Take in feedback that came between two refits; what comes after an alarm starts the next watch."""
        predicted = self._predict(rows, self.lasting_rates)
        level = float(np.clip(self.stage.mean_weights @ self.lasting_rates[:, 0], 0.0, 1.0))
        evidence = float(self.lasting.labels[: self.stage.sizes[0]].sum())
        self.watch, alarm = follow_llm(
            self.rule, self.watch, errors, predicted, level=level, evidence=evidence
        )
        fresh = self.stage.count_feedback(rows, np.zeros(len(rows), dtype=np.int64), errors, n_llms=1)
        self.counts = forget_counts(self.counts, [len(rows)]) + fresh
        self.lasting += fresh
        if alarm is not None:
            self.worsened += alarm.change == "worse"
            self.counts = ErrorCounts(
                errors=self.counts.errors * KEEP_AFTER_CHANGE,
                labels=self.counts.labels * KEEP_AFTER_CHANGE,
            )
            self.lasting = self.counts
        self._refit()
        return alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    #: Feedbacks from the jump to the alarm; NaN if there was none within ``3 * WITHIN``.
    delay: float
    #: Alarms in vain, and the feedbacks without a change.
    false_worse: int
    false_better: int
    calm: int
    #: Of routed traffic; NaN where it was not routed.
    share_before: float = np.nan
    share_broken: float = np.nan
    share_mended: float = np.nan
    #: Prompts from the mending until the LLM was used again; NaN if it was not.
    used_again_after: float = np.nan
    #: Whether an alarm was raised while it was broken: else its rates alone kept traffic away.
    alarmed: bool = False


def simulate_drift(
    stage: Stage,
    *,
    trials: int = 200,
    seed: int = 0,
    rule: DriftRule | None = None,
    calm: int = CALM,
    routed: int | None = None,
    run: Run[_Outcome] = map,
) -> ScenarioFindings:
    """Break one LLM per trial and count; in ``routed`` trials (a fifth unless said) route traffic too."""
    rule = rule or DriftRule(jump=JUMP)
    drawn = stage.draw(trials, seed)
    with_traffic = max(1, trials // 5) if routed is None else routed
    work = partial(_try, stage=stage, drawn=drawn, seed=seed, rule=rule, calm=calm, routed=with_traffic)
    found = list(run(work, range(trials)))
    delays = np.array([one.delay for one in found])
    in_time = int((delays <= WITHIN).sum())
    false = sum(one.false_worse + one.false_better for one in found)
    exposure = float(sum(one.calm for one in found))
    traffic = found[:with_traffic]
    alarmed = [one for one in traffic if one.alarmed]
    again = sum(bool(np.isfinite(one.used_again_after)) for one in alarmed)
    return ScenarioFindings(
        scenario="drift",
        dataset=stage.dataset,
        trials=trials,
        seed=seed,
        protocol=(
            f"One LLM of the unseen third per run: {LABELS} labels, {BEFORE} feedbacks, then right answers "
            f"fail until its error is {JUMP:g} higher. {calm} feedbacks per run without a change. "
            f"Traffic routed in {with_traffic} runs: {PHASE} prompts before, {PHASE} broken, then mended."
        ),
        measures=(
            share_of(
                f"noticed within {WITHIN} of its feedbacks",
                in_time,
                trials,
                promise=">= 95 %",
                kept=in_time >= 0.95 * trials,
            ),
            _quantile("feedbacks to the alarm, median", delays, 0.5),
            _quantile("feedbacks to the alarm, 95th percentile", delays, 0.95),
            rate_of(
                "false alarms per 10,000 feedbacks",
                false,
                exposure,
                per=10_000,
                promise="<= 1",
                kept=false * 10_000 <= exposure,
            ),
            rate_of("of them: worse", sum(one.false_worse for one in found), exposure, per=10_000),
            _average("share of traffic before", [one.share_before for one in traffic]),
            _average("share of traffic while broken", [one.share_broken for one in traffic]),
            _average("share of traffic after mending", [one.share_mended for one in traffic]),
            share_of("alarm raised while it was broken", len(alarmed), len(traffic)),
            share_of(
                "of these used again after mending",
                again,
                len(alarmed),
                promise="all",
                kept=again == len(alarmed),
            ),
            _quantile(
                "prompts until it was used again, median",
                np.array([one.used_again_after for one in alarmed]),
                0.5,
            ),
        ),
    )


def _quantile(name: str, values: Vector, at: float) -> Measure:
    """Give a quantile in which never is later than any time; NaN where it is never."""
    late = np.quantile(np.where(np.isfinite(values), values, np.inf), at, method="higher")
    return Measure(name=name, value=float(late) if np.isfinite(late) else np.nan, unit="count")


def _average(name: str, values: list[float]) -> Measure:
    return Measure(name=name, value=float(np.mean(values)), unit="share")


def _try(
    number: int, *, stage: Stage, drawn: list[Trial], seed: int, rule: DriftRule, calm: int, routed: int
) -> _Outcome:
    trial, rng = drawn[number], np.random.default_rng([seed, number, 3])
    prior = stage.fit_prior(trial.known)
    able = [llm for llm in trial.unseen if stage.errors[:, llm].mean() <= 1 - _LEAST_QUALITY]
    llm = int(rng.choice(able or trial.unseen))
    false = _false_alarms(_start(stage, prior, rule, llm, rng), llm, calm, rng)
    outcome = _Outcome(
        delay=_delay(_start(stage, prior, rule, llm, rng), llm, rng),
        false_worse=false["worse"],
        false_better=false["better"],
        calm=calm,
    )
    if number >= routed:
        return outcome
    tracked = [_start(stage, prior, rule, int(one), rng) for one in trial.unseen]
    return _route(tracked, trial, rng, outcome)


def _start(stage: Stage, prior: PoolPrior, rule: DriftRule, llm: int, rng: np.random.Generator) -> _Tracked:
    labelled = rng.permutation(stage.val)[:LABELS]
    return _Tracked(stage, prior, llm, stage.count(labelled, stage.errors[labelled][:, [llm]]), rule)


def _traffic(stage: Stage, n: int, rng: np.random.Generator) -> Rows:
    """Draw prompts from val and test, with replacement."""
    pool = np.concatenate([stage.val, stage.test])
    drawn: Rows = pool[rng.integers(len(pool), size=n)]
    return drawn


def _break(errors: Vector, level: float, rng: np.random.Generator) -> Vector:
    """Let right answers fail, each with the same chance, until the mean error is ``JUMP`` higher."""
    fails = rng.random(len(errors)) < JUMP / max(1 - level, JUMP)
    broken: Vector = np.where(fails, 1.0, errors)
    return broken


def _false_alarms(tracked: _Tracked, llm: int, n: int, rng: np.random.Generator) -> dict[Change, int]:
    """Feed an LLM that does not change; count alarms, but for those that take back one for the worse."""
    alarms: dict[Change, int] = {"worse": 0, "better": 0}
    for start in range(0, n, REFIT_EVERY):
        rows = _traffic(tracked.stage, min(REFIT_EVERY, n - start), rng)
        standing = tracked.watch.standing
        alarm = tracked.learn(rows, tracked.stage.errors[rows, llm])
        if alarm is not None and (standing, alarm.change) != ("worse", "better"):
            alarms[alarm.change] += 1
    return alarms


def _delay(tracked: _Tracked, llm: int, rng: np.random.Generator) -> float:
    """Feed an LLM, break it, and give the feedbacks until it was noticed."""
    stage = tracked.stage
    level = float(stage.errors[np.concatenate([stage.val, stage.test]), llm].mean())
    for _ in range(BEFORE // REFIT_EVERY):
        rows = _traffic(stage, REFIT_EVERY, rng)
        tracked.learn(rows, stage.errors[rows, llm])
    for start in range(0, 3 * WITHIN, REFIT_EVERY):
        rows = _traffic(stage, REFIT_EVERY, rng)
        alarm = tracked.learn(rows, _break(stage.errors[rows, llm], level, rng))
        if alarm is not None and alarm.change == "worse":
            return float(start + alarm.row + 1)
    return np.nan


def _route(tracked: list[_Tracked], trial: Trial, rng: np.random.Generator, found: _Outcome) -> _Outcome:
    """Route traffic among the unseen LLMs; break the one that should be used most, then mend it."""
    stage, llms = tracked[0].stage, [int(llm) for llm in trial.unseen]
    costs = stage.costs[np.ix_(stage.val, trial.unseen)].mean(axis=0)
    policy = _choose_policy(stage, tracked, costs)
    traffic = _Traffic(stage=stage, llms=llms, tracked=tracked, costs=costs, policy=policy, rng=rng)
    chosen = [traffic.run(PHASE, None)]
    broken, due = _choose_broken(tracked, costs, policy)
    alarms = tracked[broken].worsened
    chosen += [traffic.run(PHASE, broken)]
    alarms = tracked[broken].worsened - alarms
    chosen += [traffic.run(2 * PHASE, None)]
    before, during = (float((part[-_SHARE_OF:] == broken).mean()) for part in chosen[:2])
    sums = np.append(0, np.cumsum(chosen[2] == broken))
    shares = (sums[_SHARE_OF:] - sums[:-_SHARE_OF]) / _SHARE_OF
    back = np.flatnonzero(shares >= _LEAST_SHARE * min(before, due))
    return replace(
        found,
        share_before=before,
        share_broken=during,
        share_mended=float(shares[-1]),
        used_again_after=float(back[0] + _SHARE_OF) if back.size else np.nan,
        alarmed=alarms > 0,
    )


def _choose_broken(tracked: list[_Tracked], costs: Vector, policy: Exploration) -> tuple[int, float]:
    """Give the LLM, able to get worse, that would be used most were all val outcomes known: place and share.

    Not the one that is used most: that is in part the luckiest, and luck does not come back.
    """
    stage, rows = tracked[0].stage, tracked[0].stage.val
    wrong = np.column_stack([stage.errors[rows, one.llm] for one in tracked])
    counts = stage.count(rows, wrong)
    errors = stage.predict(rows, tracked[0].prior.error_rates(counts.errors, counts.labels))
    ahead = _candidates(stage, tracked, np.clip(errors, 0.0, 1.0), costs)
    used = probabilities_of(policy, ahead).mean(axis=0)
    position = int((used * (wrong.mean(axis=0) <= 1 - _LEAST_QUALITY)).argmax())
    return position, float(used[position])


def _candidates(stage: Stage, tracked: list[_Tracked], errors: Matrix, costs: Vector) -> Candidates:
    return Candidates(
        errors=errors,
        costs=np.broadcast_to(costs, errors.shape),
        allowed=np.ones(errors.shape, dtype=np.bool_),
        names=tuple(stage.llms[one.llm] for one in tracked),
    )


def _choose_policy(stage: Stage, tracked: list[_Tracked], costs: Vector) -> Exploration:
    errors = np.column_stack([one.predict(stage.val) for one in tracked])
    middle = float(spread_lambdas(errors, costs)[4])
    return Exploration(policy=Lagrangian(middle), share=EXPLORED)


@dataclass(slots=True, kw_only=True, eq=False)
class _Traffic:
    """Prompts routed in blocks, each answered, scored and learned from before the next."""

    stage: Stage
    llms: list[int]
    tracked: list[_Tracked]
    costs: Vector
    policy: Exploration
    rng: np.random.Generator

    def run(self, n: int, broken: int | None) -> Rows:
        """Route ``n`` prompts while the LLM at position ``broken`` fails; give the positions chosen, (n,)."""
        return np.concatenate(
            [self._block(_traffic(self.stage, BLOCK, self.rng), broken) for _ in range(n // BLOCK)]
        )

    def _block(self, rows: Rows, broken: int | None) -> Rows:
        errors = np.column_stack([one.predict(rows) for one in self.tracked])
        candidates = _candidates(self.stage, self.tracked, errors, self.costs)
        chosen: Rows = self.policy.choose(candidates, rng=self.rng).llms
        for position, llm in enumerate(self.llms):
            asked = chosen == position
            asked |= self.rng.random(len(rows)) < PROBED[self.tracked[position].watch.standing]
            if asked.any():
                self._learn(position, rows[asked], self.stage.errors[rows[asked], llm], position == broken)
        return chosen

    def _learn(self, position: int, rows: Rows, errors: Vector, is_broken: bool) -> None:  # noqa: FBT001
        if is_broken:
            errors = _break(errors, float(self.stage.errors[:, self.llms[position]].mean()), self.rng)
        self.tracked[position].learn(rows, errors)
