"""What the router promises when it is killed, frozen, joined and left, and when its neighbours go away."""

import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from exactly_once import CommittedReader, Traffic, make_ids, produce
from installations import Installation
from kafka import KafkaProducer

from workers.local.ports import choose_ports
from workers.local.stack import LocalStack
from workers.topics import create_topics, reply_topic

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "what red apple"}]}'
#: Small batches make many transactions.
SMALL = {"UNIROUTE_MAX_BATCH": "16"}
#: A session so short that a frozen router loses its partitions within the test. No busy machine keeps one so
#: short for sure: whoever is to lose nothing gets the usual one.
QUICK = {**SMALL, "UNIROUTE_SESSION_TIMEOUT_MS": "1500"}


LLMS = ("cheap", "dear")
#: For anything to happen, the start of a process on a busy machine included.
_PATIENCE_S = 120.0


@pytest.fixture
def installation(stack: LocalStack, migrated_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Two LLMs, the cheaper of which takes every prompt."""
    created = Installation.create(
        kafka_bootstrap=stack.endpoints.kafka_bootstrap, database_url=migrated_url, folder=tmp_path
    )
    with created:
        created.register("dear", usd_per_mtok=50.0)
        created.register("cheap", usd_per_mtok=1.0)
        yield created


class Outputs:
    """Dispatches to some LLMs, and all decisions, as a read_committed reader sees them."""

    def __init__(self, installation: Installation, *llms: str) -> None:
        bootstrap, topics = installation.settings.kafka_bootstrap, installation.topics
        self.dispatches = CommittedReader(bootstrap, [topics.dispatch(llm) for llm in llms])
        self.decisions = CommittedReader(bootstrap, [topics.decisions])

    def await_more(self, count: int) -> None:
        """Read until so many more decisions came than there are now."""
        self.decisions.read_to_end()
        wanted = len(self.decisions.records) + count
        self.decisions.read_until(lambda reader: len(reader.records) >= wanted, timeout_s=_PATIENCE_S)

    def await_dispatches(self, count: int) -> None:
        """Read until there are so many dispatches."""
        self.dispatches.read_until(lambda reader: len(reader.records) >= count, timeout_s=_PATIENCE_S)

    def assert_exactly_once(self, ids: list[bytes]) -> None:
        """Each prompt has one dispatch and one decision, and nothing else has any."""
        for reader in (self.dispatches, self.decisions):
            reader.read_until(lambda reader: reader.ids.keys() >= set(ids), timeout_s=_PATIENCE_S)
            reader.read_to_end()

            assert reader.ids == Counter(ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.dispatches.close()
        self.decisions.close()


@pytest.fixture
def outputs(installation: Installation) -> Iterator[Outputs]:
    """What has been committed."""
    with Outputs(installation, *LLMS) as outputs:
        yield outputs


def produce_backlog(installation: Installation, count: int) -> list[bytes]:
    """Produce so many prompts at once, so that routers are amid batches all the time; give their ids."""
    ids = make_ids(count)
    headers = [("uniroute-reply-to", f"{installation.settings.reply_prefix}app".encode())]
    produce(
        installation.settings.kafka_bootstrap,
        installation.topics.prompts,
        dict.fromkeys(ids, BODY),
        headers=headers,
    )
    return ids


def send_prompts(installation: Installation, *, per_second: int = 150) -> Traffic:
    """Give a steady stream of prompts, slow enough for a busy machine to keep up with."""
    topics = installation.topics
    headers = [("uniroute-reply-to", f"{installation.settings.reply_prefix}app".encode())]
    return Traffic(
        installation.settings.kafka_bootstrap,
        topics.prompts,
        per_second=per_second,
        value=BODY,
        headers=headers,
    )


def read_metric(port: int, name: str) -> float:
    """Give the value of a router's metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def await_metric(port: int, name: str, *, value: float, outputs: Outputs) -> None:
    """Read decisions on until the metric has the value."""
    while read_metric(port, name) != value:
        outputs.await_more(50)


def test_killed_mid_batch_and_started_again(installation: Installation, outputs: Outputs) -> None:
    """SIGKILL amid batches and transactions, twice, loses no prompt and decides none twice."""
    ids = produce_backlog(installation, 2_500)
    for _ in range(2):
        router = installation.serve("router", environment=QUICK)
        outputs.await_more(300)
        router.kill()
    installation.serve("router", environment=QUICK)

    outputs.assert_exactly_once(ids)


def test_frozen_past_its_session_and_woken(installation: Installation, outputs: Outputs) -> None:
    """A router that sleeps while another takes over is refused when it wakes, and joins again."""
    ids = produce_backlog(installation, 3_000)
    sleeper = installation.serve("router", slot="0", environment=QUICK)
    outputs.await_more(200)
    sleeper.freeze()
    installation.serve("router", slot="1", environment=QUICK)
    outputs.await_more(800)
    sleeper.wake()
    sleeper.wait_until_said("loop_rejoins", times=1, timeout_s=_PATIENCE_S)
    outputs.assert_exactly_once(ids)
    code, _ = sleeper.stop()

    assert code == 0


def test_a_second_router_joins_and_leaves(installation: Installation, outputs: Outputs) -> None:
    """It takes a share of the partitions and gives it back, while the first goes on."""
    first = installation.serve("router", slot="0", environment=SMALL)
    with send_prompts(installation) as traffic:
        outputs.await_more(100)
        second = installation.serve("router", slot="1", environment=SMALL)
        second.wait_until_said('"gained": [[', times=1, timeout_s=_PATIENCE_S)
        outputs.await_more(300)
        code, seconds = second.stop()
        outputs.await_more(300)

    outputs.assert_exactly_once(traffic.ids)
    assert code == 0
    assert seconds < 10
    assert first.said("loop_rejoins") == 0


def test_the_broker_dies_and_comes_back(installation: Installation, stack: LocalStack) -> None:
    """Routers wait for a broker that was killed amid their transactions, and go on."""
    session = {**QUICK, "UNIROUTE_SESSION_TIMEOUT_MS": "6000"}
    routers = [installation.serve("router", slot=slot, environment=session) for slot in ("0", "1")]
    ids = produce_backlog(installation, 2_500)
    # The readers are not there while the broker is down: they would leave sockets open that nobody closes.
    with Outputs(installation, *LLMS) as outputs:
        outputs.await_more(300)
    stack.kafka.kill()
    stack.kafka.start()
    with Outputs(installation, *LLMS) as outputs:
        outputs.assert_exactly_once(ids)
    codes = [router.stop()[0] for router in routers]

    assert codes == [0, 0]


def test_postgres_goes_away(installation: Installation, outputs: Outputs, stack: LocalStack) -> None:
    """Routers keep deciding on what they hold, say so by a metric, and see what is published afterwards."""
    port = choose_ports(1)[0]
    router = installation.serve("router", web_port=port, environment=SMALL)
    with send_prompts(installation) as traffic:
        outputs.await_more(100)
        stack.postgres.kill()
        try:
            await_metric(port, "uniroute_state_stale", value=1, outputs=outputs)
            outputs.await_more(600)
        finally:
            stack.postgres.start()
        await_metric(port, "uniroute_state_stale", value=0, outputs=outputs)
        installation.register("best", score=1.0, usd_per_mtok=0.1)
        with Outputs(installation, "best") as best:
            best.await_dispatches(100)
    with Outputs(installation, *LLMS, "best") as everything:
        everything.assert_exactly_once(traffic.ids)

    assert router.said("loop_rejoins") == 0


def test_an_llm_joins_under_load(installation: Installation, outputs: Outputs) -> None:
    """It gets prompts as soon as its error rates are published, from a router that was never restarted."""
    router = installation.serve("router", environment=SMALL)
    with send_prompts(installation) as traffic:
        outputs.await_more(200)
        installation.register("best", score=1.0, usd_per_mtok=0.1)
        with Outputs(installation, "best") as best:
            best.await_dispatches(200)
    with Outputs(installation, *LLMS, "best") as everything:
        everything.assert_exactly_once(traffic.ids)

    assert router.said("loop_rejoins") == 0


def test_what_is_cancelled_before_it_is_routed_is_not_dispatched(installation: Installation) -> None:
    """A router that starts after the cancel answers so; the prompt after it is routed."""
    settings, topics = installation.settings, installation.topics
    reply_to = f"{settings.reply_prefix}app"
    create_topics(settings, [reply_topic(reply_to, settings)])
    headers = [("uniroute-reply-to", reply_to.encode())]
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(topics.cancels, key=b"goes").get(_PATIENCE_S)
    for key in (b"goes", b"stays"):
        producer.send(topics.prompts, key=key, value=BODY, headers=headers).get(_PATIENCE_S)
    producer.close()
    installation.serve("router")
    with (
        CommittedReader(settings.kafka_bootstrap, [reply_to]) as replies,
        CommittedReader(settings.kafka_bootstrap, [topics.dispatch("cheap")]) as dispatches,
    ):
        replies.read_until(lambda reader: len(reader.records) >= 1, timeout_s=_PATIENCE_S)
        dispatches.read_until(lambda reader: len(reader.records) >= 1, timeout_s=_PATIENCE_S)
        for reader in (replies, dispatches):
            reader.read_to_end()

        assert replies.ids == Counter([b"goes"])
        assert b"cancelled" in replies.records[0].value
        assert dispatches.ids == Counter([b"stays"])
