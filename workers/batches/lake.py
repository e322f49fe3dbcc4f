"""Assigns a folder of Parquet files without a call, on this machine or by Ray Data: the same decisions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from routing.decisions import Prompts, decide
from routing.embedders import Embedder
from routing.policies import Policy
from routing.snapshot import Snapshot
from workers.batches.tables import Columns
from workers.errors import UsageError
from workers.prompts import count_tokens

if TYPE_CHECKING:
    import pyarrow as pa

Engine = Literal["local", "ray"]
#: Rows that are embedded and decided at once.
_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Rule:
    """What rows are decided by; ``embedder`` opens, in any process, what the map was fitted on."""

    snapshot: Snapshot
    policy: Policy
    embedder: Callable[[], Embedder]
    columns: Columns


class RowDecider:
    """Decides the rows of tables; holds the embedder."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._embedder = rule.embedder()

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """Give ``custom_id``, ``llm``, ``predicted_error`` and ``predicted_cost_usd`` of each row.

        A row without a prompt, or that no LLM may take, has no LLM. Only policies without a draw are used, so
        no row's result depends on another's.
        """
        import pyarrow as pa  # noqa: PLC0415  # only tables need it

        used = self._rule.columns.resolve(list(table.schema.names))
        if "prompt" not in used:
            raise UsageError("a data lake's rows are assigned by one column of text: --column prompt=COLUMN")
        texts = [None if text is None else str(text) for text in table.column(used["prompt"]).to_pylist()]
        ids = table.column(used["custom_id"]).to_pylist() if "custom_id" in used else [None] * len(texts)
        found = [self._decide(texts[start : start + _ROWS]) for start in range(0, len(texts), _ROWS)]
        rows = [row for block in found for row in block]
        return pa.table(
            {
                "custom_id": pa.array([None if one is None else str(one) for one in ids], pa.string()),
                "llm": pa.array([row[0] for row in rows], pa.string()),
                "predicted_error": pa.array([row[1] for row in rows], pa.float64()),
                "predicted_cost_usd": pa.array([row[2] for row in rows], pa.float64()),
            }
        )

    def _decide(self, texts: list[str | None]) -> list[tuple[str | None, float | None, float | None]]:
        given = [text for text in texts if text]
        if not given:
            return [(None, None, None)] * len(texts)
        asked = Prompts(
            embeddings=self._embedder.encode(given),
            input_tokens=np.array([count_tokens(text) for text in given]),
        )
        decisions = decide(asked, self._rule.snapshot, self._rule.policy, rng=np.random.default_rng(0))
        if not np.isnan(decisions.draws).all():
            raise UsageError("the policy draws lots, so that a row's LLM would depend on the rows beside it")
        decided = iter(
            (
                decisions.llm(row),
                float(decisions.predicted_errors[row]),
                float(decisions.predicted_costs[row]),
            )
            for row in range(len(given))
        )
        return [next(decided) if text else (None, None, None) for text in texts]


def assign_lake(folder: Path, output: Path, rule: Rule, *, engine: Engine) -> Mapping[str, int]:
    """Decide every row of a folder's Parquet files, write Parquet to ``output``, and count rows by LLM.

    Files in folders below count too, but for names that begin with ``.`` or ``_``, where drafts and logs lie.
    Memory holds a block of rows, whatever the size of the folder. Both engines run ``RowDecider``, so a row
    gets the same bits from both where its embedding does not depend on the texts beside it. Raises
    ``UsageError`` for a folder without Parquet, an output that is there already, or Ray where it is missing.
    """
    files = _find_files(folder)
    if not files:
        raise UsageError(f"{folder} holds no .parquet file")
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty: name a folder that is, or none yet")
    output.mkdir(parents=True, exist_ok=True)
    if engine == "ray":
        _assign_by_ray(files, output, rule)
    else:
        _assign_here(folder, files, output, rule)
    return _count(output)


def _find_files(folder: Path) -> list[Path]:
    """Give a folder's Parquet files, sorted, as both engines read them."""
    return [
        path
        for path in sorted(folder.rglob("*.parquet"))
        if path.is_file() and not any(name.startswith((".", "_")) for name in path.relative_to(folder).parts)
    ]


def _assign_here(folder: Path, files: Sequence[Path], output: Path, rule: Rule) -> None:
    """Write a file for each, at its place below ``output``."""
    import pyarrow as pa  # noqa: PLC0415  # as above
    from pyarrow import parquet  # noqa: PLC0415  # as above

    decider = RowDecider(rule)
    for path in files:
        target = output / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        file = parquet.ParquetFile(path)
        draft, writer = target.with_name(f".{path.name}.draft"), None
        try:
            for batch in file.iter_batches(batch_size=_ROWS):
                found = decider(pa.Table.from_batches([batch]))
                writer = writer or parquet.ParquetWriter(draft, found.schema)
                writer.write_table(found)
        finally:
            file.close()
            if writer is not None:
                writer.close()
        if writer is not None:
            draft.replace(target)


def _assign_by_ray(files: Sequence[Path], output: Path, rule: Rule) -> None:
    try:
        import ray  # noqa: PLC0415  # an extra of its own
        import ray.data  # noqa: PLC0415  # as above
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'uniroute[ray]'") from error
    # Without partitioning: columns that stand in the names of folders are nobody's prompt.
    rows = ray.data.read_parquet([str(path) for path in files], partitioning=None)
    decided = rows.map_batches(
        RowDecider,
        fn_constructor_args=(rule,),
        batch_format="pyarrow",
        batch_size=_ROWS,
        compute=ray.data.ActorPoolStrategy(min_size=1),
    )
    decided.write_parquet(str(output))


def _count(output: Path) -> dict[str, int]:
    import pyarrow.compute as pc  # noqa: PLC0415  # as above
    from pyarrow import parquet  # noqa: PLC0415  # as above

    counts: dict[str, int] = {}
    for path in output.rglob("*.parquet"):
        column: Any = parquet.read_table(path, columns=["llm"]).column("llm")
        for entry in pc.value_counts(column).to_pylist():
            name = entry["values"] or ""
            counts[name] = counts.get(name, 0) + int(entry["counts"])
    return counts
