"""Learns a new LLM from as few graded probes as the routing decision needs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.costs import costs_at, price_table
from routing.embedders import FloatMatrix
from routing.errors import UnknownLLMError
from routing.learning import StoppingRule, deal_probes, expected_losses, spread_lambdas
from routing.policies import Exploration, Lagrangian
from routing.quality.counts import count_errors
from workers.errors import UsageError, WorkersError
from workers.learner import refit
from workers.policies import read_policy
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps, FittedMap
from workers.storage.engine import transaction
from workers.storage.llm_journal import Standing
from workers.storage.llms import LLMs, Registration
from workers.storage.snapshots import load_state
from workers.topics import create_topics, llm_topics

#: Prompts that stand for the traffic when it is asked what another label is worth.
_ASKED_ON = 1_000
#: Resolution whose cells the probes are dealt over: 20 clusters by default.
_DEALT_OVER = 2
#: Standard deviations on either side of a mean error that hold it with 90 %.
_NORMAL_90 = 1.645


class ProbesFailedError(WorkersError):
    """Not one probe of the first batch was answered, so nothing can be learned of the LLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What came of one probe that was answered."""

    score: float
    #: Of the answer; ``None`` where the endpoint did not tell its usage.
    cost_usd: float | None = None
    #: Of judging it.
    judge_usd: float = 0.0
    #: By which feedback can be given on the answer.
    decision_id: str = ""


#: Puts prompts, by their place in the file, to the LLM; ``None`` for one that it gave no answer to.
Ask = Callable[[Sequence[int]], Sequence[Graded | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What probing came to."""

    llm: str
    #: Labels that are counted, all runs together, and those of this run.
    labels: int
    labels_now: int
    failures: int
    #: Whether the routes were settled before the prompts or the rule's most ran out.
    settled: bool
    #: Error that not knowing the LLM better is expected to cost a prompt.
    loss: float
    #: Of this run's answers.
    mean_score: float | None
    cost_usd: float
    #: Of judging them.
    judge_usd: float
    #: Predicted mean error over the prompts, with what holds it with 90 %.
    error: float
    error_interval: tuple[float, float]
    #: Share of the prompts that it would win from the LLMs that are live, averaged over the lambdas.
    share: float

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return asdict(self)


def begin(engine: Engine, settings: Settings, registration: Registration) -> None:
    """Register an LLM as one that is to be probed: it has topics and gets no traffic."""
    create_topics(settings, llm_topics(registration.llm.name, settings))
    with transaction(engine) as session:
        LLMs(session).register(registration, state="probe", standing=Standing(cautious=True))


def probe(
    engine: Engine,
    name: str,
    *,
    embeddings: FloatMatrix,
    input_tokens: NDArray[np.float64],
    ask: Ask,
    rule: StoppingRule | None = None,
    max_usd: float | None = None,
    seed: int = 0,
) -> Probed:
    """Label a probed LLM on prompts with reference answers until the routes are settled; it is a shadow then.

    ``embeddings`` (n, d) and ``input_tokens`` (n,) are the prompts', in their order. They are asked so that
    any first few hold each cluster by its share of them; a run that was broken off goes on where it ended, if
    it has the same prompts and ``seed``. No batch is asked that would pass ``max_usd`` if it costs what those
    before it did; the first is asked unless that is 0. Labels are counted batch by batch; the LLM's rates
    stay at the upper end of their interval unless the rule stopped it. Raises ``UsageError`` for an LLM in
    another state or where no map is in force, ``ProbesFailedError`` where the first batch got no answer.
    """
    rule = rule or StoppingRule()
    with transaction(engine) as session:
        fitted = ClusterMaps(session).require_active()
        _check_state(session, name)
        labels = before = _count_labels(session, fitted, name)
    cells = fitted.cluster_map.cells(embeddings)
    order = deal_probes(
        cells[:, min(_DEALT_OVER, cells.shape[1] - 1)], rng=np.random.default_rng(seed)
    ).tolist()
    asked, failures, graded = before, 0, list[Graded]()
    while True:
        known = _weigh(engine, fitted, name, embeddings, input_tokens, cost=_mean_cost(graded))
        more = bool(rule.wants_more([known.loss], [labels])[0])
        rows = order[asked : asked + (rule.batch if labels else rule.fewest)]
        if not more or not rows or not _affords(graded, len(rows), max_usd):
            break
        answers = ask(rows)
        asked += len(rows)
        counted = [(row, one) for row, one in zip(rows, answers, strict=True) if one is not None]
        if not counted and not graded:
            raise ProbesFailedError(f"{name} answered none of {len(rows)} probes")
        failures += len(rows) - len(counted)
        labels += len(counted)
        graded += [one for _, one in counted]
        with transaction(engine) as session:
            _count(session, fitted, name, cells[[row for row, _ in counted]], [one for _, one in counted])
    settled = labels >= rule.fewest and not more and labels < rule.most
    found = Probed(
        llm=name,
        labels=labels,
        labels_now=labels - before,
        failures=failures,
        settled=settled,
        loss=known.loss,
        mean_score=float(np.mean([one.score for one in graded])) if graded else None,
        cost_usd=sum(one.cost_usd or 0.0 for one in graded),
        judge_usd=sum(one.judge_usd for one in graded),
        error=known.error,
        error_interval=known.interval,
        share=known.share,
    )
    with transaction(engine) as session:
        LLMs(session).set_state(
            name,
            "shadow",
            standing=Standing(cautious=not settled),
            reason=f"probed with {labels} labels",
            evidence=found.as_json(),
        )
    refit(engine, reason=f"{name} was probed with {labels} labels", wait=True)
    return found


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of an LLM beside those that are live."""

    loss: float
    error: float
    interval: tuple[float, float]
    share: float


def _weigh(
    engine: Engine,
    fitted: FittedMap,
    name: str,
    embeddings: FloatMatrix,
    input_tokens: NDArray[np.float64],
    *,
    cost: float | None,
) -> _Known:
    """Hold what labels say of one LLM against the live ones, at the lambdas that policies in force have.

    ``cost`` is the mean of its answers so far; before the first it is what its prices let expect.
    """
    with transaction(engine) as session:
        state = load_state(session)
    cluster_map, every = fitted.cluster_map, slice(None, None, max(1, len(embeddings) // _ASKED_ON))
    with transaction(engine) as session:
        counts = CellCounts(session).read(
            cluster_map.version, [name], n_cells=sum(cluster_map.sizes), evidence=("label",)
        )
    weights, tokens = cluster_map.weights(embeddings[every]), input_tokens[every]
    errors = weights @ fitted.prior.error_rates(counts.errors, counts.labels)
    deviations = weights @ fitted.prior.deviations(counts.errors, counts.labels)
    mean, half = float(errors.mean()), _NORMAL_90 * float(deviations.mean())
    interval = (max(0.0, mean - half), min(1.0, mean + half))
    live = state.snapshot
    if live is None or not live.llms:
        return _Known(0.0, mean, interval, 1.0)
    if cost is None:
        llm = state.registered[name].llm
        cost = float(costs_at(price_table([llm]), tokens, np.array([llm.expected_output_tokens])).mean())
    costs = np.append(live.predict_costs(tokens).mean(axis=0), cost)
    known = live.predict_deviations(weights)
    if known is None:
        known = np.zeros((len(weights), len(live.llms)))
    errors = np.hstack([live.predict_errors(weights), errors])
    lambdas = np.array(_lambdas(state.policies) or spread_lambdas(errors, costs).tolist())
    losses = expected_losses(errors, np.hstack([known, deviations]), costs, lambdas)
    wins = [(errors + rate * costs).argmin(axis=1) == len(live.llms) for rate in lambdas]
    return _Known(float(losses[-1]), mean, interval, float(np.mean(wins)))


def _lambdas(policies: dict[str, tuple[int, dict[str, Any]]]) -> list[float]:
    """Give the lambdas of the policies in force that have one."""
    found = []
    for name, (_, body) in policies.items():
        policy = read_policy(name, body).policy
        policy = policy.policy if isinstance(policy, Exploration) else policy
        if isinstance(policy, Lagrangian) and np.isfinite(policy.error_per_usd):
            found.append(policy.error_per_usd)
    return found


def _affords(graded: Sequence[Graded], count: int, max_usd: float | None) -> bool:
    """Tell whether so many probes more stay within the budget of a run."""
    if max_usd is None or not graded:
        return max_usd != 0.0
    spent = sum((one.cost_usd or 0.0) + one.judge_usd for one in graded)
    return spent * (1 + count / len(graded)) <= max_usd


def _mean_cost(graded: Sequence[Graded]) -> float | None:
    told = [one.cost_usd for one in graded if one.cost_usd is not None]
    return float(np.mean(told)) if told else None


def _check_state(session: Session, name: str) -> None:
    found = LLMs(session).get(name)
    if found is None:
        raise UnknownLLMError(name, LLMs(session).names())
    if found.state != "probe":
        raise UsageError(f"{name} is {found.state}: `uniroute llm demote {name}` leads back to probe")


def _count_labels(session: Session, fitted: FittedMap, name: str) -> int:
    n_cells = sum(fitted.cluster_map.sizes)
    counts = CellCounts(session).read(
        fitted.cluster_map.version, [name], n_cells=n_cells, evidence=("label",)
    )
    return round(float(counts.labels[: fitted.cluster_map.sizes[0]].sum()))


def _count(
    session: Session,
    fitted: FittedMap,
    name: str,
    cells: NDArray[np.int32],
    graded: Sequence[Graded],
) -> None:
    """Add labels to the counts: each stands in one cell of every resolution."""
    counts = count_errors(
        cells,
        np.zeros(len(graded), dtype=np.int64),
        np.array([1.0 - one.score for one in graded]),
        n_cells=sum(fitted.cluster_map.sizes),
        n_llms=1,
    )
    seen = np.flatnonzero(counts.labels[:, 0])
    CellCounts(session).add(
        fitted.cluster_map.version,
        [name] * len(seen),
        seen,
        counts.errors[seen, 0],
        counts.labels[seen, 0],
        evidence="label",
    )
