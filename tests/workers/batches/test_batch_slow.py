"""What a batch does about an LLM that turns out to be slow."""

import json
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from batch_benches import LLMS, Bench

from workers.batches.requests import Options
from workers.storage.batches import Batches
from workers.storage.engine import transaction

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def put_faults(bench: Bench, *faults: dict[str, object]) -> None:
    """Tell the LLMs' server what goes wrong from now on."""
    request = urllib.request.Request(  # noqa: S310  # our own server
        f"{bench.llms_url}/faults",
        data=json.dumps({"fault": faults}).encode(),
        headers={"content-type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


@pytest.fixture
def slow(bench: Bench) -> Iterator[Bench]:
    """The better LLM takes a quarter of a second, for eight calls at a time; few lines are under way."""
    for role in ("executor", "batcher"):
        bench.kill(role)
    bench.serve("executor", UNIROUTE_MAX_IN_FLIGHT="8")
    bench.serve("batcher", UNIROUTE_BATCH_WINDOW="32")
    put_faults(bench, {"kind": "latency", "llms": [LLMS[1]], "extra_s": 0.25})
    yield bench
    put_faults(bench)
    for role in ("executor", "batcher"):
        bench.kill(role)
        bench.serve(role)


def test_lines_go_elsewhere_where_an_llm_is_too_slow_for_the_deadline(slow: Bench) -> None:
    """The better LLM takes 32 lines in a second, not 700 in 15: the journal says so, and others get some."""
    batch_id = slow.submit(700, Options(budget_usd=10.0))
    engine = slow.installation.engine
    slow.wait(batch_id, lambda batch: batch.completed > 0)
    with transaction(engine) as session:
        batches = Batches(session)
        batches.set(batch_id, deadline=batches.now() + timedelta(seconds=15))

    batch = slow.wait(batch_id, lambda batch: batch.ended)

    with transaction(engine) as session:
        plans = [one.facts for one in Batches(session).journal(batch_id) if one.event == "planned"]
    assert set(plans[0]["llms"]) == {LLMS[1]}
    assert any(f"{LLMS[1]} takes" in plan["reason"] for plan in plans)
    assert any(LLMS[0] in plan["llms"] for plan in plans)
    assert batch.llms[LLMS[0]]["lines"] > 0
