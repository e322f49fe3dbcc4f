"""A batch as large as a test has time for."""

from collections import Counter

import pytest
from batch_benches import Bench

from workers.batches.requests import Options

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

LINES = 20_000


def test_twenty_thousand_lines_come_out_once_each(bench: Bench) -> None:
    """Within a budget that pays for the better LLM about half of the time, planned again on the way."""
    batch_id = bench.submit(LINES, Options(budget_usd=1.0))

    batch = bench.wait(batch_id, lambda batch: batch.ended, timeout_s=800)

    output, errors = bench.entries(batch)
    assert (batch.status, batch.total, batch.failed, errors) == ("completed", LINES, 0, [])
    assert Counter(entry["line"] for entry in output) == Counter(range(1, LINES + 1))
    assert Counter(entry["custom_id"] for entry in output) == Counter(f"id {n}" for n in range(LINES))
    assert 0.8 < batch.spent_usd <= 1
    assert len(batch.llms) == 2
    assert batch.plan is not None
    assert batch.plan["number"] > 10
    assert (batch.duplicated, batch.repeated_calls, batch.unsettled_usd) == (0, 0, 0)
