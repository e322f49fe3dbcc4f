"""What is predicted of a batch's lines, line by line or summed up in groups that a plan can hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from routing.assignment import Aggregates
from routing.assignment import Lines as AssignmentLines
from routing.decisions import Decisions, decide_placed
from routing.policies import Lagrangian
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers.batches.ingest import Lines
from workers.batches.lines import StoppedError
from workers.batches.vectors import Vectors

Matrix = NDArray[np.float64]

#: Up to so many lines each is planned as it is; more are summed up in groups.
SINGLE_LINES = 20_000
#: A plan that is made anew looks at no more: nothing is dispatched meanwhile, and each USD is counted anyway.
SAMPLED_LINES = 65_536
_BLOCK = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which lines are looked at, and from what they are predicted."""

    lines: Lines
    vectors: Vectors
    rows: range
    snapshot: Snapshot
    #: The LLMs that the tenant may use; ``None``: any.
    candidates: frozenset[str] | None = None
    stopped: Callable[[], bool] = lambda: False
    #: Of more lines than this every so many-th is looked at, and stands for those beside it; ``None``: all.
    most: int | None = None

    @property
    def step(self) -> int:
        """Lines that one line stands for; 1 where each is planned as it is."""
        if self.most is None or len(self.rows) <= SINGLE_LINES:
            return 1
        return -(-len(self.rows) // self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """Lines, or groups of lines that are alike, with what is predicted of each."""

    #: With the tokens of prompt and answer together.
    lines: AssignmentLines
    #: Seconds that a call takes, half of the time, shape (G, H); ``None`` where nothing is known of it.
    seconds: Matrix | None
    #: Standard deviations of the predicted errors, shape (G, H); ``None`` where they are not estimated.
    deviations: Matrix | None
    #: Lines that no LLM may take; they are not among ``lines``.
    unservable: int
    #: Of all prompts.
    input_tokens: float


@dataclass(frozen=True, slots=True)
class _Block:
    """Predictions of some lines that an LLM may take, (n, H) each.

    Error, USD, tokens, seconds, and the deviation of the error; 0 where it is not known.
    """

    values: tuple[Matrix, Matrix, Matrix, Matrix, Matrix]
    mask: NDArray[np.bool_]
    cells: NDArray[np.int32]
    input_tokens: Matrix


@dataclass(slots=True)
class _Group:
    count: int = 0
    values: list[Matrix] = field(default_factory=list)


def sum_up(asked: Asked) -> Summed:
    """Look at all lines, a block at a time.

    Up to 20,000 lines stay as they are; more are summed up by finest cell, length and what their limits
    leave, so that the size does not grow with the file. Of a sample all counts are what it stands for. Raises
    ``StoppedError``.
    """
    n_llms = len(asked.snapshot.names)
    blocks: list[_Block] = []
    groups: dict[bytes, _Group] = {}
    unservable, tokens = 0, 0.0
    for decisions, input_tokens in _predict(asked):
        served: NDArray[np.bool_] = np.any(decisions.allowed.mask, axis=1)
        unservable += int((~served).sum())
        tokens += float(input_tokens.sum())
        block = _take(decisions, input_tokens, served, asked.snapshot)
        if len(asked.rows) <= SINGLE_LINES:
            blocks.append(block)
        else:
            _add_groups(groups, block)
    empty = np.empty((0, n_llms))
    counts = None
    if len(asked.rows) <= SINGLE_LINES:
        errors, costs, both, seconds, deviations = (
            np.concatenate([empty, *(block.values[at] for block in blocks)]) for at in range(5)
        )
        masks = np.concatenate([empty.astype(np.bool_), *(block.mask for block in blocks)])
    else:
        counts = asked.step * np.array([group.count for group in groups.values()], dtype=np.int64)
        if len(counts):
            # The last of a sample stands for fewer.
            counts[counts.argmax()] -= counts.sum() + asked.step * unservable - len(asked.rows)
        errors, costs, both, seconds, deviations = (
            np.array([group.values[at] / group.count for group in groups.values()]).reshape(-1, n_llms)
            for at in range(5)
        )
        masks = np.array([_read_mask(key, n_llms) for key in groups]).reshape(-1, n_llms)
    return Summed(
        lines=AssignmentLines(errors=errors, costs=costs, tokens=both, counts=counts, allowed=masks),
        seconds=None if asked.snapshot.latencies is None else seconds,
        deviations=None if asked.snapshot.error_deviations is None else deviations,
        unservable=asked.step * unservable,
        input_tokens=asked.step * tokens,
    )


def _predict(asked: Asked) -> Iterator[tuple[Decisions, Matrix]]:
    step = asked.step
    for start in range(asked.rows.start, asked.rows.stop, _BLOCK * step):
        if asked.stopped():
            raise StoppedError
        block = slice(start, min(start + _BLOCK * step, asked.rows.stop), step)
        tokens, limits = asked.lines.tokens(block), asked.lines.limits(block)
        if asked.candidates is not None:
            allowed = Limits(candidates=asked.candidates)
            narrowed = {one: one.tightened(allowed) for one in set(limits)}
            limits = [narrowed[one] for one in limits]
        placement = asked.snapshot.cluster_map.place(asked.vectors.read(block))
        policy, rng = Lagrangian(0.0), np.random.default_rng(0)
        yield (
            decide_placed(placement, tokens, _none_if_free(limits), asked.snapshot, policy, rng=rng),
            tokens,
        )


def _take(
    decisions: Decisions, input_tokens: Matrix, served: NDArray[np.bool_], snapshot: Snapshot
) -> _Block:
    shape = decisions.errors.shape
    answers = np.broadcast_to(snapshot.predict_tokens(decisions.weights, input_tokens), shape)
    seconds = np.zeros(shape)
    if snapshot.latencies is not None:
        seconds = snapshot.latencies.seconds_for(answers, quantile=0.5)
    deviations = np.zeros(shape) if decisions.deviations is None else decisions.deviations
    return _Block(
        (
            decisions.errors[served],
            decisions.costs[served],
            (input_tokens[:, None] + answers)[served],
            seconds[served],
            deviations[served],
        ),
        decisions.allowed.mask[served],
        decisions.cells[served],
        input_tokens[served],
    )


def _none_if_free(limits: list[Limits]) -> list[Limits] | None:
    """Spare the core a look at each line where no line limits anything."""
    free = Limits()
    return None if all(one == free for one in set(limits)) else limits


def _add_groups(groups: dict[bytes, _Group], block: _Block) -> None:
    """Add a block to the sums of its groups: finest cell, power of two of the length, mask of the limits."""
    cells = block.cells[:, -1].astype("<i4")
    bands = np.log2(np.maximum(block.input_tokens, 1)).astype("<i4")
    masks = np.packbits(block.mask, axis=1)
    keys = np.concatenate([cells[:, None].view(np.uint8), bands[:, None].view(np.uint8), masks], axis=1)
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse, n_groups = inverse.reshape(-1), len(found)
    errors, costs, tokens, seconds, deviations = block.values
    money = Aggregates.of(inverse, errors, costs, n_groups=n_groups)
    work = Aggregates.of(inverse, tokens, seconds, n_groups=n_groups)
    doubt = Aggregates.of(inverse, deviations, deviations, n_groups=n_groups)
    for row, key in enumerate(found):
        group = groups.setdefault(key.tobytes(), _Group())
        sums = [money.errors[row], money.costs[row], work.errors[row], work.costs[row], doubt.errors[row]]
        before = group.values or [np.zeros(len(one)) for one in sums]
        group.values = [old + new for old, new in zip(before, sums, strict=True)]
        group.count += int(money.counts[row])


def _read_mask(key: bytes, n_llms: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(key[8:], dtype=np.uint8))[:n_llms].astype(np.bool_)
