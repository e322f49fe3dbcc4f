"""What an installation would know that had been taught from a folder of outcomes, and what truly came out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from routing.clusters import ClusterMap, Placement, fit_cluster_map
from routing.costs import LengthModel, count_usage, expected_costs, fit_lengths
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.policies import Candidates
from routing.quality.counts import count_errors
from routing.quality.pool_prior import PoolPrior, fit_pool_prior
from routing.snapshot import Snapshot, Versions
from workers.errors import UsageError
from workers.outcomes import OutcomeSet

Matrix = NDArray[np.float64]
Rows = NDArray[np.int64]
#: Texts to unit rows, float32 (n, d), and what embedded them.
Embed = Callable[[Sequence[str]], tuple[FloatMatrix, Fingerprint]]

#: Cells of each resolution and sharpness of the map: those of a new installation.
SIZES, TEMPERATURE = (5, 10, 20, 40, 80), 16.0
#: Labels of each LLM, at most.
MOST_LABELS = 400
#: Recorded costs and tokens times list price are the same thing if they differ by no more than this share.
_SAME_COST = 0.01
#: Tokens that a call of mean cost is given where costs are not known to come from tokens.
_UNITS = 1000.0
#: Costs that differ by no more than this share are the same.
_EQUAL = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """n prompts that every one of H LLMs has a score for, with the map and the lengths of the train split."""

    dataset: str
    #: In the order of their names; their prices are USD per token, or per call where tokens are unknown.
    llms: tuple[LLM, ...]
    #: (n, H).
    scores: Matrix
    #: (n, H): USD, as recorded.
    costs: Matrix
    cost_source: str
    #: Rows of each split, in file order.
    train: Rows
    val: Rows
    test: Rows
    cluster_map: ClusterMap
    #: Where all prompts lie.
    placement: Placement
    #: (n,).
    input_tokens: Matrix
    #: (n, H): what lengths are learned from.
    output_tokens: Matrix
    prior: PoolPrior
    #: Learned from the usage of the train split.
    lengths: LengthModel
    #: (n, H): USD that each call is expected to cost, by these lengths.
    expected_costs: Matrix
    #: Prompts left out for lack of a score.
    incomplete: int

    @property
    def names(self) -> tuple[str, ...]:
        """The LLMs' names, ascending."""
        return tuple(llm.name for llm in self.llms)

    @property
    def wrong(self) -> Matrix:
        """1 - score, (n, H)."""
        return 1.0 - self.scores

    def teach(self, labelled: Rows) -> Snapshot:
        """Give the snapshot of routers that know each LLM by its labels on these prompts alone."""
        n_cells, n_llms = sum(self.cluster_map.sizes), len(self.llms)
        counts = count_errors(
            np.repeat(self.placement.cells[labelled], n_llms, axis=0),
            np.tile(np.arange(n_llms), len(labelled)),
            self.wrong[labelled].ravel(),
            n_cells=n_cells,
            n_llms=n_llms,
        )
        return Snapshot(
            cluster_map=self.cluster_map,
            llms=self.llms,
            error_rates=self.prior.error_rates(counts.errors, counts.labels),
            error_deviations=self.prior.deviations(counts.errors, counts.labels),
            output_tokens=np.array([llm.expected_output_tokens for llm in self.llms]),
            versions=Versions(error_rates="recorded", prices="recorded"),
            lengths=self.lengths,
        )

    def candidates(self, snapshot: Snapshot, rows: Rows) -> Candidates:
        """Give what a policy sees of these prompts, each LLM allowed."""
        weights = self.placement.weights[rows]
        return Candidates(
            errors=snapshot.predict_errors(weights),
            costs=self.expected_costs[rows],
            allowed=np.ones((len(rows), len(self.llms)), dtype=np.bool_),
            names=self.names,
            deviations=snapshot.predict_deviations(weights),
            ceilings=snapshot.predict_ceilings(weights, self.input_tokens[rows]),
        )

    def expected_tokens(self, rows: Rows) -> Matrix:
        """Give the tokens, (m, H), that calls of these prompts are expected to take, in and out."""
        weights, input_tokens = self.placement.weights[rows], self.input_tokens[rows]
        return input_tokens[:, None] + self.lengths.expected_tokens(weights, input_tokens)

    def calibrate_costs(self, learned_on: Rows, asked_on: Rows) -> Matrix:
        """Give predicted / actual USD per LLM, (H,), on some prompts after learning lengths from others."""
        lengths = _learn_lengths(
            self.placement, self.cluster_map.sizes, self.input_tokens, self.output_tokens, learned_on
        )
        weights, input_tokens = self.placement.weights[asked_on], self.input_tokens[asked_on]
        tokens = lengths.expected_tokens(weights, input_tokens)
        predicted = expected_costs(input_tokens, tokens, self.llms).sum(axis=0)
        actual = self.costs[asked_on].sum(axis=0)
        ratios: Matrix = np.where(actual > 0, predicted / np.where(actual > 0, actual, 1.0), 1.0)
        return ratios

    def resplit(self, rng: np.random.Generator) -> "Recorded":
        """Deal the prompts of val and test anew, each split as large as it was; the train split stays."""
        pool = rng.permutation(np.concatenate([self.val, self.test]))
        return replace(self, val=pool[: len(self.val)], test=pool[len(self.val) :])


def learn_from(recorded: OutcomeSet, *, embed: Embed, seed: int = 0) -> Recorded:
    """Fit map, prior and lengths on the train split of a folder of outcomes.

    The prior is PoolPrior's: how the errors of the folder's LLMs move together over train prompts, as
    ``uniroute map fit DIR`` has it; no LLM's own level is in it. ``UsageError`` where a split has no prompt
    that every LLM has a score for.
    """
    kept = np.flatnonzero(recorded.complete)
    train, val, test = (np.flatnonzero(recorded.splits[kept] == split) for split in ("train", "val", "test"))
    for split, rows in (("train", train), ("val", val), ("test", test)):
        if len(rows) == 0:
            raise UsageError(f"{recorded.name}: no {split} prompt has a score of every LLM")
    embeddings, fingerprint = embed([recorded.texts[row] for row in kept])
    sizes = tuple(sorted({min(size, len(train)) for size in SIZES}))
    with threadpool_limits(1):  # k-means multiplies small matrices: more threads wait more than they work
        fitted = fit_cluster_map(
            np.ascontiguousarray(embeddings[train]),
            sizes=sizes,
            temperature=TEMPERATURE,
            fingerprint=fingerprint,
            seed=seed,
        )
    sizes = fitted.sizes  # fewer where prompts coincide
    placement = fitted.place(embeddings)
    scores, costs = recorded.scores[kept], recorded.costs_usd[kept]
    llms, input_tokens, output_tokens = _price(recorded, kept, train)
    lengths = _learn_lengths(placement, sizes, input_tokens, output_tokens, train)
    tokens = lengths.expected_tokens(placement.weights, input_tokens)
    return Recorded(
        dataset=recorded.name,
        llms=llms,
        scores=scores,
        costs=costs,
        cost_source=recorded.cost_source,
        train=train,
        val=val,
        test=test,
        cluster_map=fitted,
        placement=placement,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        prior=fit_pool_prior(placement.cells[train], 1.0 - scores[train], sizes=sizes),
        lengths=lengths,
        expected_costs=expected_costs(input_tokens, tokens, llms),
        incomplete=len(recorded.texts) - len(kept),
    )


def _price(
    recorded: OutcomeSet, kept: NDArray[np.intp], train: Rows
) -> tuple[tuple[LLM, ...], Matrix, Matrix]:
    """Give the LLMs with their prices, the prompts' tokens (n,) and the answers' (n, H).

    Where tokens and list prices do not make up the recorded costs, or are not recorded, a price per unit
    stands in: a call of an LLM's mean cost has ``_UNITS`` units, so that lengths learn costs themselves. An
    LLM that charged the same for every train prompt charges that for any.
    """
    input_tokens, output_tokens = recorded.input_tokens[kept], recorded.output_tokens[kept]
    costs = recorded.costs_usd[kept]
    mean_input = input_tokens.mean(axis=1)
    prices = [recorded.prices.get(name) for name in recorded.llms]
    if all(price is not None for price in prices) and np.isfinite(input_tokens + output_tokens).all():
        listed = [
            Price(input_usd_per_mtok=one.input_usd_per_mtok, output_usd_per_mtok=one.output_usd_per_mtok)
            for one in prices
            if one is not None
        ]
        per_token = np.array([[one.input_usd_per_mtok, one.output_usd_per_mtok] for one in listed]) / 1e6
        made_up = mean_input[:, None] * per_token[:, 0] + output_tokens * per_token[:, 1]
        paid = costs[train].sum(axis=0)
        if np.all(np.abs(made_up[train].sum(axis=0) - paid) <= _SAME_COST * paid):
            return _name(recorded.llms, listed), mean_input, output_tokens
    mean = costs[train].mean(axis=0)
    same = np.ptp(costs[train], axis=0) <= _EQUAL * mean
    unit = np.maximum(mean, 1e-15) / _UNITS
    listed = [
        Price(
            input_usd_per_mtok=0.0,
            output_usd_per_mtok=0.0 if always else each * 1e6,
            fixed_usd=whole if always else 0.0,
        )
        for each, whole, always in zip(unit.tolist(), mean.tolist(), same.tolist(), strict=True)
    ]
    known = np.where(np.isfinite(mean_input), mean_input, 0.0)
    return _name(recorded.llms, listed), known, costs / unit


def _name(names: Sequence[str], prices: Sequence[Price]) -> tuple[LLM, ...]:
    return tuple(LLM(name=name, price=price) for name, price in zip(names, prices, strict=True))


def _learn_lengths(
    placement: Placement, sizes: Sequence[int], input_tokens: Matrix, output_tokens: Matrix, rows: Rows
) -> LengthModel:
    n_llms = output_tokens.shape[1]
    usage = count_usage(
        np.repeat(placement.cells[rows], n_llms, axis=0),
        np.tile(np.arange(n_llms), len(rows)),
        np.repeat(input_tokens[rows], n_llms),
        output_tokens[rows].ravel(),
        n_cells=sum(sizes),
        n_llms=n_llms,
    )
    return fit_lengths(usage, prior_tokens=np.full(n_llms, 256.0), sizes=sizes)
