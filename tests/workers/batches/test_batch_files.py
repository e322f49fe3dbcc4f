"""How a batch's files get their final names, and what stands in them of lines that the end came before."""

import json
from pathlib import Path

import numpy as np
import pytest

from workers import messages
from workers.batches.collecting import ENTRY
from workers.batches.entries import UNDONE, reply_entry
from workers.batches.finishing import drop_work, write_results
from workers.batches.folders import BatchFolder, part
from workers.messages import Message

#: As they were collected: the rows of the lines, and what each wrote.
COLLECTED = [(2, b"third\n"), (0, b"first\n"), (1, b"second\n")]


def collected(folder: BatchFolder) -> None:
    """Three answers that came in another order than their lines."""
    entries = np.zeros(len(COLLECTED), dtype=ENTRY)
    at = 0
    for place, (row, raw) in enumerate(COLLECTED):
        entries[place] = (row, 0, at, len(raw))
        at += len(raw)
    part(folder.output).write_bytes(b"".join(raw for _, raw in COLLECTED))
    folder.written.write_bytes(entries.tobytes())


def test_a_crash_while_the_output_is_sorted_spoils_nothing(tmp_path: Path) -> None:
    """Whatever a crash leaves before the last name is given, sorting again reads what was collected."""
    folder = BatchFolder(tmp_path)
    collected(folder)
    write_results(folder, order="input")
    folder.output.rename(folder.output.with_suffix(".sorted"))

    write_results(folder, order="input")

    assert folder.output.read_bytes() == b"first\nsecond\nthird\n"
    drop_work(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors.jsonl", "output.jsonl"]


@pytest.mark.parametrize(
    ("code", "ended_as", "expected"),
    [
        ("expired", None, "batch_expired"),  # the executor saw the deadline first
        ("cancelled", "expired", "batch_expired"),
        ("cancelled", "cancelled", "batch_cancelled"),
        ("cancelled", "failed", "batch_failed"),
        ("cancelled", None, "cancelled"),  # somebody cancelled this prompt alone
        ("server", "cancelled", "server"),
    ],
)
def test_a_line_that_the_end_came_before_says_so(code: str, ended_as: str | None, expected: str) -> None:
    """One class for all such lines, dispatched or not; what its calls took is told all the same."""
    reply = Message(
        topic="replies",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"b:7",
        value=messages.error_value(code, "why"),
        headers=((messages.UNSETTLED_USD, b"0.25"),),
    )

    raw, error = reply_entry("b", 7, "id", reply, ended_as=ended_as)

    entry = json.loads(raw)
    assert error == entry["error"]["code"] == entry["response"]["body"]["error"]["code"] == expected
    assert (error in UNDONE) == (expected != code)
    assert entry["uniroute"]["unsettled_usd"] == 0.25
