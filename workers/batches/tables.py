"""Turns rows of a Parquet or CSV file into lines of OpenAI's batch format, a row at a time."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from workers.batches.lines import unpack
from workers.batches.requests import ENDPOINT
from workers.errors import UsageError

Format = Literal["jsonl", "parquet", "csv"]
#: What a column may be used as, with the column that is looked for where nobody names one; ``None``: none.
ROLES: Mapping[str, str | None] = {
    "prompt": "prompt",
    "messages": "messages",
    "system": None,
    "custom_id": "custom_id",
    "model": None,
    "max_tokens": None,
}
_NEED = ("prompt", "messages")
_ROWS = 1_024
#: A cell of more characters cannot be a prompt of ours.
_LONGEST_CELL = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a table is what, by role."""

    named: Mapping[str, str]

    @classmethod
    def read(cls, given: list[str]) -> "Columns":
        """Read ``prompt=question``; ``UsageError`` for a role that is not known or given twice."""
        named: dict[str, str] = {}
        for text in given:
            role, equals, column = text.partition("=")
            if not equals or not column or role not in ROLES or role in named:
                known = ", ".join(ROLES)
                raise UsageError(f"--column {text!r}: give ROLE=COLUMN, each role once; roles are {known}")
            named[role] = column
        return cls(named)

    def resolve(self, present: list[str]) -> dict[str, str]:
        """Give the columns to read by role; ``UsageError`` for one that is not there, or without a prompt."""
        for role, column in self.named.items():
            if column not in present:
                listed = ", ".join(present)[:300]
                raise UsageError(f"--column {role}={column}: there is no such column; there are: {listed}")
        usual = {role: column for role, column in ROLES.items() if column is not None and column in present}
        if any(role in self.named for role in _NEED):
            usual = {role: column for role, column in usual.items() if role not in _NEED}
        found = {**usual, **self.named}
        if not any(role in found for role in _NEED):
            raise UsageError("no column is the prompt: name it by --column prompt=COLUMN, or messages=COLUMN")
        return found


def tell_format(name: str) -> Format:
    """Tell a file's format by how its name ends, compression aside."""
    stem = name.lower().removesuffix(".gz").removesuffix(".zst")
    if stem.endswith((".parquet", ".pq")):
        return "parquet"
    return "csv" if stem.endswith(".csv") else "jsonl"


def read_rows(source: BinaryIO, kind: Format, columns: Columns) -> Iterator[bytes]:
    """Yield a line for each row: its number is the row's, from 1, so that errors name the row.

    A row without a prompt becomes a line that is refused for it. Raises ``UsageError`` for a file that cannot
    be read, or where Parquet needs pyarrow and it is not installed.
    """
    rows = _parquet_rows(source, columns) if kind == "parquet" else _csv_rows(source, columns)
    for number, row in enumerate(rows, start=1):
        yield json.dumps(_as_line(number, row), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _as_line(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": row.get("model") or "auto", "messages": _messages(row)}
    if row.get("max_tokens") not in {None, ""}:
        body["max_completion_tokens"] = _as_number(row["max_tokens"])
    custom_id = row.get("custom_id")
    return {
        "custom_id": str(number if custom_id in {None, ""} else custom_id),
        "method": "POST",
        "url": ENDPOINT,
        "body": body,
    }


def _messages(row: Mapping[str, Any]) -> object:
    found = row.get("messages")
    if isinstance(found, str):
        try:
            return json.loads(found)
        except ValueError:
            return found  # which is refused, by its line
    if found is not None:
        return found
    prompt = row.get("prompt")
    if prompt is None:
        return []
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [*system, {"role": "user", "content": str(prompt)}]


def _as_number(value: object) -> object:
    try:
        return int(str(value))
    except ValueError:
        return value


def _csv_rows(source: BinaryIO, columns: Columns) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    with ExitStack() as stack:
        text = io.TextIOWrapper(unpack(source, stack), encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text)
        try:
            used = columns.resolve(list(reader.fieldnames or ()))
            for row in reader:
                yield {role: row.get(column) for role, column in used.items()}
        except (csv.Error, UnicodeDecodeError, EOFError) as error:
            raise UsageError(f"the CSV file cannot be read behind line {reader.line_num}: {error}") from error
        finally:
            text.detach()


def _parquet_rows(source: BinaryIO, columns: Columns) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # only tables need it
        from pyarrow import parquet  # noqa: PLC0415  # as above
    except ImportError as error:
        raise UsageError("reading Parquet needs pyarrow: pip install 'uniroute[batch]'") from error
    try:
        file = parquet.ParquetFile(source)
        used = columns.resolve(list(file.schema_arrow.names))
        names = list(dict.fromkeys(used.values()))
        for batch in file.iter_batches(batch_size=_ROWS, columns=names):
            for row in batch.to_pylist():
                yield {role: row[column] for role, column in used.items()}
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"the Parquet file cannot be read: {error}") from error
