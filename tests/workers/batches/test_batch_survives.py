import time
from collections import Counter
from datetime import timedelta

import pytest
from batch_benches import LLMS, Bench
from kafka import KafkaProducer

from workers import messages
from workers.batches.requests import Options
from workers.batches.submission import cancel, pause, retry_failed, submit
from workers.errors import UsageError
from workers.messages import Message
from workers.storage.batches import Batches
from workers.storage.engine import transaction
from workers.transactions.dead_letters import dead_letter

pytestmark = pytest.mark.stack


def test_every_line_comes_out_once_whoever_is_killed(bench: Bench) -> None:
    """Batcher and executor are killed in the middle: no line is lost or doubled, and the budget is kept."""
    batch_id = bench.submit(600, Options(budget_usd=0.05, order="input"))
    for role, at in (("batcher", 50), ("executor", 150)):
        bench.wait(batch_id, lambda batch, at=at: batch.completed >= at)
        bench.kill(role)
        bench.serve(role)

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "completed"
    assert (batch.completed, batch.failed, batch.duplicated) == (600, 0, 0)
    assert errors == []
    assert [entry["line"] for entry in output] == list(range(1, 601))
    assert Counter(entry["custom_id"] for entry in output) == Counter(f"id {n}" for n in range(600))
    assert batch.spent_usd + batch.unsettled_usd <= 0.05
    assert abs(float(batch.spent_usd) - sum(entry["uniroute"]["cost_usd"] for entry in output)) < 1e-9


def test_what_the_budget_does_not_pay_for_is_told(bench: Bench) -> None:
    """A budget for a part of the lines is spent on them and no further; a retry takes up the rest."""
    batch_id = bench.submit(300, Options(budget_usd=0.0004, order="input", metadata={"team": "red"}))

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "completed"
    assert len(output) + len(errors) == 300
    assert {entry["error"]["code"] for entry in errors} == {"budget_exhausted"}
    assert 0 < len(errors) < 300
    assert batch.spent_usd <= batch.budget_usd  # type: ignore[operator]
    again = retry_failed(
        bench.installation.engine,
        bench.store,
        batch_id,
        budget_usd=1.0,
        most_bytes=100_000,
    )
    second = bench.wait(again.batch.id, lambda batch: batch.ended)
    assert (second.completed, second.failed) == (len(errors), 0)
    assert again.batch.options == {**batch.options, "budget_usd": 1.0}
    waits = [one.deadline - one.created_at for one in (again.batch, batch)]
    assert abs(waits[0] - waits[1]) < timedelta(seconds=1)


def test_a_paused_batch_stands_still_and_a_cancelled_one_keeps_what_is_finished(bench: Bench) -> None:
    """Pause dispatches nothing more; cancel, twice as well as once, ends within ten seconds."""
    engine = bench.installation.engine
    batch_id = bench.submit(1_500)
    bench.wait(batch_id, lambda batch: batch.completed > 0)
    pause(engine, batch_id, paused=True)
    begun = time.monotonic()
    cancel(engine, batch_id)
    cancel(engine, batch_id)

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert batch.status == "cancelled"
    assert time.monotonic() - begun < 10
    assert len(output) == batch.completed > 0
    assert Counter(entry["line"] for entry in [*output, *errors]) == Counter(range(1, 1_501))
    assert {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert cancel(engine, batch_id).status == "cancelled"
    with pytest.raises(UsageError, match="cancelled"):
        pause(engine, batch_id, paused=True)


def test_a_dispatch_that_is_given_up_ends_its_line_at_once(bench: Bench) -> None:
    """Its dead letter is the answer: the line ends with the letter's reason, not at the deadline."""
    bench.kill("executor")
    batch_id = bench.submit(5)
    bench.wait(batch_id, lambda batch: "dead_letters" in batch.positions)
    topics, settings = bench.installation.topics, bench.installation.settings
    dispatch = Message(
        topic=topics.dispatch(LLMS[0], "batch"),
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=f"{batch_id}:3".encode(),
        value=b"{}",
        headers=((messages.RESERVED_USD, b"0.000000000001"),),
    )
    letter = dead_letter(
        dispatch,
        error_class="unknown_topic",
        sentence="its reply has no topic",
        attempts=1,
        topic_prefix=settings.topic_prefix,
    )
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers)).get(10)
    producer.close()

    bench.wait(batch_id, lambda batch: batch.failed == 1)
    bench.serve("executor")
    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert (batch.status, len(output), batch.duplicated) == ("completed", 4, 0)
    assert [(one["line"], one["error"]["code"]) for one in errors] == [(3, "unknown_topic")]


def test_a_reply_that_nobody_can_read_ends_its_line_and_no_other(bench: Bench) -> None:
    """Whoever may write to the topic can spoil a line; the batch goes on, and keeps what is answered."""
    bench.kill("executor")
    batch_id = bench.submit(5)
    bench.wait(batch_id, lambda batch: "dead_letters" in batch.positions)
    settings = bench.installation.settings
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    for line, header in ((2, (messages.COST_USD, b"cheap")), (4, (messages.CALLS, b"[["))):
        priced = (messages.COST_USD, b"0.1"), (messages.LLM, b"x")
        headers = [*(one for one in priced if one[0] != header[0]), header]
        producer.send(
            f"{settings.reply_prefix}batches", key=f"{batch_id}:{line}".encode(), value=b"{}", headers=headers
        ).get(10)
    producer.close()

    bench.wait(batch_id, lambda batch: batch.failed == 2)
    bench.serve("executor")
    batch = bench.wait(batch_id, lambda batch: batch.ended)

    output, errors = bench.entries(batch)
    assert (batch.status, sorted(one["line"] for one in output)) == ("completed", [1, 3, 5])
    assert {one["line"]: one["error"]["code"] for one in errors} == {2: "bad_reply", 4: "bad_reply"}


def test_an_empty_file_fails_with_a_reason(bench: Bench) -> None:
    """Nothing to do is said, not passed over."""
    batch_id = bench.submit(0)

    batch = bench.wait(batch_id, lambda batch: batch.ended)

    assert (batch.status, batch.problem) == ("failed", "the file is empty")


def test_the_same_content_is_recognised(bench: Bench) -> None:
    """A second submit of the same file names the first."""
    engine = bench.installation.engine
    first = bench.submit(17)
    with transaction(engine) as session:
        batches = Batches(session)
        file = batches.file(batches.get(first).input_file)
    assert file is not None

    assert submit(file, Options(), engine=engine).twins == (first,)
