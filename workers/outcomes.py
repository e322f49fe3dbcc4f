"""Folders of recorded outcomes: which LLM answered which prompt how well, and for how much.

A folder holds ``prompts.parquet`` (prompt_id, prompt, task, domain, split), ``outcomes.parquet`` (prompt_id,
model, score in 0..1; input_tokens, output_tokens and cost_usd where known) and ``models.csv`` (model;
in_usd_per_mtok and out_usd_per_mtok where known). Its name is the set's name.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.errors import UsageError

FloatMatrix = NDArray[np.float64]
CostSource = Literal["recorded USD", "list price", "unit costs"]

SPLITS = ("train", "val", "test")
PRICE_COLUMNS = ("in_usd_per_mtok", "out_usd_per_mtok")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrice:
    """What an LLM asks for a million tokens, in USD; both finite and at least 0."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeSet:
    """n prompts in the order of their file, H LLMs sorted by name; what is not recorded is NaN.

    ``costs_usd`` is never NaN where there is a score, and its unit depends on ``cost_source``: *recorded USD*
    and *list price* (tokens x price; per 1,000 tokens in and 1,000 out for a set that records no output
    tokens) are USD per call, *unit costs* are 1 for every call.
    """

    name: str
    prompt_ids: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    domains: tuple[str, ...]
    #: (n,) of "train", "val" and "test".
    splits: NDArray[np.str_]
    llms: tuple[str, ...]
    #: (n, H), in 0..1.
    scores: FloatMatrix
    #: (n, H).
    input_tokens: FloatMatrix
    #: (n, H).
    output_tokens: FloatMatrix
    #: (n, H).
    costs_usd: FloatMatrix
    #: By LLM; empty if ``models.csv`` lists no price at all.
    prices: Mapping[str, ListPrice]
    cost_source: CostSource

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(n,): the prompts that every LLM has a score for."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))


class BadOutcomesError(UsageError):
    """An outcome folder that cannot be read as one; rows are counted from 1, without the header."""

    def __init__(
        self, file: Path, problem: str, *, column: str | None = None, row: int | None = None
    ) -> None:
        place = str(file)
        if column is not None:
            place += f", column {column}"
        if row is not None:
            place += f", row {row + 1}"
        super().__init__(f"{place}: {problem}")
        self.file = file
        self.column = column
        #: Counted from 1.
        self.row = None if row is None else row + 1


def read_outcomes(folder: Path) -> OutcomeSet:
    """Read and check a folder of outcomes.

    Raises :class:`BadOutcomesError`, which names file, column and row, if the folder breaks the format, and
    :class:`~workers.errors.UsageError` if pyarrow is not installed. An LLM whose price is blank while others
    have one is refused: an unknown price is never 0.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder: name one that holds prompts.parquet, outcomes.parquet, models.csv"
        )
    prompts = _Columns(folder / "prompts.parquet", ("prompt_id", "prompt", "task", "domain", "split"))
    outcomes = _Columns(folder / "outcomes.parquet", ("prompt_id", "model", "score"))
    prompt_ids = prompts.texts("prompt_id")
    _refuse_repeated(prompts.file, "prompt_id", prompt_ids)
    splits = prompts.texts("split")
    for row, split in enumerate(splits):
        if split not in SPLITS:
            raise BadOutcomesError(
                prompts.file, f"{split!r} is not train, val or test", column="split", row=row
            )

    rows, columns, llms = _place_outcomes(outcomes, prompt_ids)
    shape = (len(prompt_ids), len(llms))
    scores = outcomes.numbers("score", highest=1.0)

    def spread(values: FloatMatrix | None) -> FloatMatrix:
        matrix = np.full(shape, np.nan)
        if values is not None:
            matrix[rows, columns] = values
        return matrix

    input_tokens = spread(outcomes.numbers_if_any("input_tokens"))
    output_tokens = spread(outcomes.numbers_if_any("output_tokens"))
    prices = _read_prices(folder / "models.csv", llms)
    recorded = outcomes.numbers_if_any("cost_usd")
    costs, source = _find_costs(spread(recorded), input_tokens, output_tokens, llms=llms, prices=prices)
    unknown = np.flatnonzero(np.isnan(costs[rows, columns]))
    if unknown.size:
        row = int(unknown[0])
        raise BadOutcomesError(
            outcomes.file,
            f"LLM {llms[columns[row]]!r} has neither a cost here nor a price and token counts to work it out",
            column="cost_usd",
            row=row,
        )
    return OutcomeSet(
        name=folder.resolve().name,
        prompt_ids=tuple(prompt_ids),
        texts=tuple(prompts.texts("prompt")),
        tasks=tuple(prompts.texts("task", nulls=True)),
        domains=tuple(prompts.texts("domain", nulls=True)),
        splits=np.array(splits),
        llms=llms,
        scores=spread(scores),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        costs_usd=costs,
        prices=prices,
        cost_source=source,
    )


class _Columns:
    """The columns of a Parquet file, checked as they are taken."""

    def __init__(self, file: Path, required: Sequence[str]) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415  (only uniroute[evaluate] has it)
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError as error:
            raise UsageError(
                "reading outcome folders needs pyarrow: pip install 'uniroute[evaluate]'"
            ) from error
        self.file = file
        self._arrow = pa
        if not file.is_file():
            raise BadOutcomesError(file, "there is no such file")
        try:
            self._table = parquet.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise BadOutcomesError(file, f"is not a Parquet file ({error})") from error
        for column in required:
            if column not in self._table.column_names:
                there = ", ".join(self._table.column_names)
                raise BadOutcomesError(file, f"is missing; there are: {there}", column=column)
        if not self._table.num_rows:
            raise BadOutcomesError(file, "has no rows")

    def texts(self, column: str, *, nulls: bool = False) -> list[str]:
        """Return the column's strings; a null is an error, or "" where ``nulls`` are fine."""
        values = self._texts(column)
        if values.null_count and not nulls:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise BadOutcomesError(self.file, "is empty", column=column, row=row)
        return [value or "" for value in values.to_pylist()]

    def codes(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        """Return the column as indices into its distinct strings."""
        self.texts(column)
        encoded = self._texts(column).dictionary_encode()
        return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()

    def numbers(self, column: str, *, highest: float = math.inf, nulls: bool = False) -> NDArray[np.float64]:
        """Return the column's numbers, each in 0..``highest``; null and NaN are errors unless ``nulls``."""
        array, types = self._table.column(column), self._arrow.types
        if not (types.is_integer(array.type) or types.is_floating(array.type)):
            raise BadOutcomesError(self.file, f"holds {array.type}, not numbers", column=column)
        values = array.cast(self._arrow.float64()).fill_null(np.nan).to_numpy()
        missing = np.isnan(values)
        bad = ~((values >= 0.0) & (values <= highest) & np.isfinite(values))
        if nulls:
            bad &= ~missing
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            limits = "at least 0 and finite" if math.isinf(highest) else f"within 0..{highest:g}"
            sentence = (
                f"is empty; leave the row out if there is no {column}"
                if missing[row]
                else f"{values[row]:g} is not {limits}"
            )
            raise BadOutcomesError(self.file, sentence, column=column, row=row)
        return np.asarray(values, dtype=np.float64)

    def numbers_if_any(self, column: str) -> NDArray[np.float64] | None:
        """Return the column's numbers with NaN for nulls, or None if the file has none."""
        if column not in self._table.column_names:
            return None
        if self._table.column(column).null_count == self._table.num_rows:
            return None
        return self.numbers(column, nulls=True)

    def _texts(self, column: str) -> Any:  # noqa: ANN401  (pyarrow publishes no types)
        array, types = self._table.column(column), self._arrow.types
        kind = array.type.value_type if types.is_dictionary(array.type) else array.type
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise BadOutcomesError(self.file, f"holds {array.type}, not text", column=column)
        return array.cast(self._arrow.large_string()).combine_chunks()


def _refuse_repeated(file: Path, column: str, values: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if value in first:
            problem = f"{value!r} is there already, in row {first[value] + 1}"
            raise BadOutcomesError(file, problem, column=column, row=row)
        first[value] = row


def _place_outcomes(
    outcomes: _Columns, prompt_ids: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Where each row of outcomes belongs: its prompt, its LLM, and the sorted LLMs."""
    prompt_codes, named_prompts = outcomes.codes("prompt_id")
    llm_codes, named_llms = outcomes.codes("model")
    position = {prompt_id: row for row, prompt_id in enumerate(prompt_ids)}
    rows = np.array([position.get(name, -1) for name in named_prompts], dtype=np.int64)[prompt_codes]
    if (rows < 0).any():
        row = int(np.flatnonzero(rows < 0)[0])
        problem = f"{named_prompts[prompt_codes[row]]!r} is not a prompt of prompts.parquet"
        raise BadOutcomesError(outcomes.file, problem, column="prompt_id", row=row)
    llms = tuple(sorted(named_llms))
    columns = np.array([llms.index(name) for name in named_llms], dtype=np.int64)[llm_codes]
    pairs = rows * len(llms) + columns
    order = np.argsort(pairs, kind="stable")
    again = order[1:][pairs[order[1:]] == pairs[order[:-1]]]
    if again.size:
        row = int(again.min())
        earlier = int(np.flatnonzero(pairs == pairs[row])[0])
        pair = f"prompt {prompt_ids[rows[row]]!r} and LLM {llms[columns[row]]!r}"
        problem = f"{pair} are there already, in row {earlier + 1}"
        raise BadOutcomesError(outcomes.file, problem, column="model", row=row)
    return rows, columns, llms


def _read_prices(file: Path, llms: Sequence[str]) -> dict[str, ListPrice]:
    """Read the prices of ``llms``: all of them, or none if the file lists no price."""
    if not file.is_file():
        raise BadOutcomesError(file, "there is no such file")
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        reader = csv.DictReader(lines)
        if "model" not in (reader.fieldnames or ()):
            raise BadOutcomesError(file, "is missing", column="model")
        table = list(reader)
        priced = all(column in (reader.fieldnames or ()) for column in PRICE_COLUMNS)
    names = [line["model"] or "" for line in table]
    _refuse_repeated(file, "model", names)
    for llm in llms:
        if llm not in names:
            raise BadOutcomesError(
                file, f"has no row for LLM {llm!r}, which outcomes.parquet names", column="model"
            )
    if not priced or not any(line[column] for line in table for column in PRICE_COLUMNS):
        return {}
    rows = {llm: names.index(llm) for llm in llms}
    return {
        llm: ListPrice(
            input_usd_per_mtok=_read_price(file, table[row], PRICE_COLUMNS[0], row),
            output_usd_per_mtok=_read_price(file, table[row], PRICE_COLUMNS[1], row),
        )
        for llm, row in rows.items()
    }


def _read_price(file: Path, line: Mapping[str, str], column: str, row: int) -> float:
    text = (line[column] or "").strip()
    if not text:
        problem = f"LLM {line['model']!r} has no price, though others have; an unknown price is never 0"
        raise BadOutcomesError(file, problem, column=column, row=row)
    try:
        price = float(text)
    except ValueError as error:
        raise BadOutcomesError(file, f"{text!r} is not a number", column=column, row=row) from error
    if not math.isfinite(price) or price < 0.0:
        raise BadOutcomesError(file, f"{text} is not at least 0 and finite", column=column, row=row)
    return price


def _find_costs(
    recorded: FloatMatrix,
    input_tokens: FloatMatrix,
    output_tokens: FloatMatrix,
    *,
    llms: Sequence[str],
    prices: Mapping[str, ListPrice],
) -> tuple[FloatMatrix, CostSource]:
    """USD per call: recorded, else tokens x list price, else the list prices alone, else 1."""
    any_recorded = not np.isnan(recorded).all()
    if not prices:
        return (recorded, "recorded USD") if any_recorded else (np.ones_like(recorded), "unit costs")
    per_token = (
        np.array([(prices[llm].input_usd_per_mtok, prices[llm].output_usd_per_mtok) for llm in llms]) / 1e6
    )
    listed = input_tokens * per_token[:, 0] + output_tokens * per_token[:, 1]
    if any_recorded:
        return np.where(np.isnan(recorded), listed, recorded), "recorded USD"
    if np.isnan(output_tokens).all() or np.isnan(input_tokens).all():
        listed = np.broadcast_to(1_000.0 * per_token.sum(axis=1), recorded.shape).copy()
    return listed, "list price"
