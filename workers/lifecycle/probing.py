"""Learns a new LLM from as few graded probes as the routing decision needs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.embedders import FloatMatrix
from routing.errors import UnknownLLMError
from routing.learning import StoppingRule, deal_probes, label_until_settled
from routing.llms import LLM
from routing.quality.counts import count_errors
from workers.errors import UsageError, WorkersError
from workers.learner import refit, watched_resolution
from workers.lifecycle.weighing import Known, Rivals
from workers.settings import Settings
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps, FittedMap
from workers.storage.engine import transaction
from workers.storage.journal import Journal
from workers.storage.llm_journal import LLMJournal, Standing
from workers.storage.llms import LLMs, Registration
from workers.storage.snapshots import load_state
from workers.topics import create_topics, llm_topics

#: What the journal calls a batch of labels that was counted.
_LABELLED = "labelled"
#: So that a budget pays for all of what it pays for exactly.
_ROUNDING = 1e-9
#: More batches than any LLM is ever labelled in.
_EVERY_BATCH = 100_000


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
    texts: Sequence[str],
    embeddings: FloatMatrix,
    input_tokens: NDArray[np.float64],
    ask: Ask,
    rule: StoppingRule | None = None,
    max_usd: float | None = None,
    seed: int = 0,
) -> Probed:
    """Label a probed LLM on prompts with reference answers until the routes are settled; it is a shadow then.

    ``texts`` (n,), ``embeddings`` (n, d) and ``input_tokens`` (n,) are the prompts', in their order. They are
    asked so that any first few hold each cluster by its share of the prompts that the map was fitted on. A
    text is a label once, however often it is there and in whatever files: so a run that was broken off goes
    on where it ended, and what had no answer is asked again. A batch is cut to what stays within ``max_usd``
    if each costs what those before it did; the first is asked unless that is 0. Labels are counted batch by
    batch; the LLM's rates stay at the upper end of their interval unless the rule stopped it. Raises
    ``UsageError`` for an LLM in another state or where no map is in force, ``ProbesFailedError`` where the
    first batch got no answer.
    """
    rule = rule or StoppingRule()
    with transaction(engine) as session:
        fitted = ClusterMaps(session).require_active()
        version = fitted.cluster_map.version
        mix = ClusterMaps(session).mix(version)
        llm = _check_state(session, name)
        before = _count_labels(session, fitted, name)
        labelled = _read_labelled(session, version, name)
    with transaction(engine) as session:
        rivals = Rivals(load_state(session), fitted, embeddings, input_tokens)
    cells = fitted.cluster_map.cells(embeddings)
    order = deal_probes(
        cells[:, cells.shape[1] // 2] - watched_resolution(fitted.cluster_map.sizes).start,
        rng=np.random.default_rng(seed),
        masses=None if mix is None else mix.cells,
    )
    run = _Run(
        engine=engine,
        fitted=fitted,
        llm=llm,
        rivals=rivals,
        texts=texts,
        cells=cells,
        waiting=_leave_out(order.tolist(), texts, labelled),
        ask=ask,
        max_usd=max_usd,
    )
    labels, settled = label_until_settled(
        rule, [before], weigh=lambda: [run.weigh().loss], ask=lambda _, count: run.label(count)
    )
    found = run.report(before=before, labels=int(labels[0]), settled=bool(settled[0]))
    with transaction(engine) as session:
        LLMs(session).set_state(
            name,
            "shadow",
            standing=Standing(cautious=not found.settled),
            reason=f"probed with {found.labels} labels",
            evidence=found.as_json(),
        )
    refit(engine, reason=f"{name} was probed with {found.labels} labels", wait=True)
    return found


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """What is left to ask of an LLM, and what came of what was asked."""

    engine: Engine
    fitted: FittedMap
    llm: LLM
    rivals: Rivals
    texts: Sequence[str]
    cells: NDArray[np.int32]
    #: Rows that are still to be asked, in their turn.
    waiting: list[int]
    ask: Ask
    max_usd: float | None
    graded: list[Graded] = field(default_factory=list)
    failures: int = 0
    #: By the labels of this moment; ``None`` where nobody looked since the last of them came.
    known: Known | None = None

    def weigh(self) -> Known:
        """Hold what all labels so far say against the live LLMs."""
        if self.known is not None:
            return self.known
        cluster_map = self.fitted.cluster_map
        with transaction(self.engine) as session:
            counts = CellCounts(session).read(
                cluster_map.version, [self.llm.name], n_cells=sum(cluster_map.sizes), evidence=("label",)
            )
        self.known = self.rivals.weigh(self.llm, counts, cost=_mean_cost(self.graded))
        return self.known

    def label(self, count: int) -> int | None:
        """Ask so many, or as many as there are and the budget pays for; count what was answered.

        Gives how many labels that is, ``None`` where nothing could be asked.
        """
        rows = self.waiting[: min(count, self._affordable())]
        if not rows:
            return None
        self.waiting = self.waiting[len(rows) :]
        self.known = None
        answers = self.ask(rows)
        counted = [(row, one) for row, one in zip(rows, answers, strict=True) if one is not None]
        if not counted and not self.graded:
            raise ProbesFailedError(f"{self.llm.name} answered none of {len(rows)} probes")
        self.failures += len(rows) - len(counted)
        self.graded += [one for _, one in counted]
        places = [row for row, _ in counted]
        with transaction(self.engine) as session:
            _count(session, self.fitted, self.llm.name, self.cells[places], [one for _, one in counted])
            _note_labelled(
                session,
                self.fitted.cluster_map.version,
                self.llm.name,
                [_digest(self.texts[row]) for row in places],
            )
        return len(counted)

    def _affordable(self) -> int:
        """Give how many probes more the budget pays for, at what those before cost: any number at first."""
        if self.max_usd is None or (not self.graded and self.max_usd > 0):
            return len(self.waiting)
        spent = sum((one.cost_usd or 0.0) + one.judge_usd for one in self.graded)
        if not spent:
            return len(self.waiting) if self.max_usd else 0
        paid_for = max(0.0, self.max_usd - spent) * len(self.graded) / spent
        return int(min(len(self.waiting), paid_for + _ROUNDING))

    def report(self, *, before: int, labels: int, settled: bool) -> Probed:
        """Say what the run came to."""
        known = self.weigh()
        return Probed(
            llm=self.llm.name,
            labels=labels,
            labels_now=labels - before,
            failures=self.failures,
            settled=settled,
            loss=known.loss,
            mean_score=float(np.mean([one.score for one in self.graded])) if self.graded else None,
            cost_usd=sum(one.cost_usd or 0.0 for one in self.graded),
            judge_usd=sum(one.judge_usd for one in self.graded),
            error=known.error,
            error_interval=known.interval,
            share=known.share,
        )


def _mean_cost(graded: Sequence[Graded]) -> float | None:
    told = [one.cost_usd for one in graded if one.cost_usd is not None]
    return float(np.mean(told)) if told else None


def _leave_out(order: Sequence[int], texts: Sequence[str], labelled: Collection[str]) -> list[int]:
    """Give the rows whose text is not labelled, each text once, in their order."""
    seen, left = set(labelled), []
    for row in order:
        digest = _digest(texts[row])
        if digest not in seen:
            seen.add(digest)
            left.append(row)
    return left


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _note_labelled(session: Session, map_version: str, name: str, digests: Sequence[str]) -> None:
    Journal(session).write(_LABELLED, name, map=map_version, prompts=list(digests))


def _read_labelled(session: Session, map_version: str, name: str) -> set[str]:
    """Give the digests of the prompts whose labels are counted of an LLM since it was registered."""
    registered = [step.at for step in LLMJournal(session).steps(name) if step.from_state is None and step.at]
    return {
        digest
        for entry in Journal(session).read(kinds=(_LABELLED,), subject=name, last=_EVERY_BATCH)
        if entry.body["map"] == map_version and (not registered or entry.at >= registered[-1])
        for digest in entry.body["prompts"]
    }


def _check_state(session: Session, name: str) -> LLM:
    found = LLMs(session).get(name)
    if found is None:
        raise UnknownLLMError(name, LLMs(session).names())
    if found.state != "probe":
        raise UsageError(f"{name} is {found.state}: `uniroute llm demote {name}` leads back to probe")
    return found.llm


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
