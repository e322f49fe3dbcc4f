"""OpenAI's objects: files, batches, lists and errors, as they stand in responses."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from workers.batches.requests import ENDPOINT
from workers.storage.batches import Batch, BatchFile

#: Results are files too; their ids say which batch and which of its two files.
_OUTPUT, _ERRORS = "file-output-", "file-errors-"

Json = dict[str, Any]


def file_object(file: BatchFile) -> Json:
    """Give a file that was uploaded."""
    return _file(file.id, file.filename, size=file.bytes, created=file.created_at, purpose=file.purpose)


def result_object(batch: Batch, kind: str, size: int) -> Json:
    """Give an ``output`` or ``errors`` file of a batch that has ended."""
    return _file(
        result_id(batch, kind),
        f"{batch.id}.{kind}.jsonl",
        size=size,
        created=batch.ended_at or batch.created_at,
        purpose="batch_output",
    )


def result_id(batch: Batch, kind: str) -> str:
    """Name the ``output`` or ``errors`` file of a batch."""
    return f"{_OUTPUT if kind == 'output' else _ERRORS}{batch.id}"


def read_result_id(file_id: str) -> tuple[str, str] | None:
    """Give the batch and the kind that a file's id names; ``None`` for a file that was uploaded."""
    for prefix, kind in ((_OUTPUT, "output"), (_ERRORS, "errors")):
        if file_id.startswith(prefix):
            return file_id.removeprefix(prefix), kind
    return None


def batch_object(batch: Batch) -> Json:
    """Give a batch; beside OpenAI's fields, ``uniroute`` tells money, plan and what repeated."""
    ended: dict[str, int | None] = {
        f"{name}_at": None for name in ("completed", "failed", "expired", "cancelled")
    }
    if batch.ended:
        ended[f"{batch.status}_at"] = _seconds(batch.ended_at)
    problem = None
    if batch.problem is not None:
        entry = {"code": "batch_failed", "message": batch.problem, "line": None, "param": None}
        problem = {"object": "list", "data": [entry]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": ENDPOINT,
        "errors": problem,
        "input_file_id": batch.input_file,
        "completion_window": batch.options.get("window", "24h"),
        "status": batch.status,
        "output_file_id": result_id(batch, "output") if batch.ended and batch.completed else None,
        "error_file_id": result_id(batch, "errors") if batch.ended and batch.failed else None,
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": _seconds(batch.deadline),
        "finalizing_at": _seconds(batch.finalizing_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        **ended,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.options.get("metadata"),
        "uniroute": {
            "paused": batch.paused,
            "spent_usd": float(batch.spent_usd),
            "unsettled_usd": float(batch.unsettled_usd),
            "budget_usd": None if batch.budget_usd is None else float(batch.budget_usd),
            "repeated_calls": batch.repeated_calls,
            "plan": batch.plan,
            "llms": batch.llms,
        },
    }


def list_object(data: Sequence[Mapping[str, Any]], *, more: bool) -> Json:
    """Give a page."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def error_object(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> Json:
    """Give an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _file(file_id: str, filename: str, *, size: int, created: datetime, purpose: str) -> Json:
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": _seconds(created),
        "expires_at": None,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
