"""When lent money comes back, on the real Postgres and, for how far the topic is booked, the real broker."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal

import pytest
from exactly_once import create_topics
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from sqlalchemy import Engine, text

from workers.errors import WaitableError
from workers.settings import Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Grants
from workers.storage.tenants import Tenant, Tenants
from workers.tenants import Returns, TopicProgress

pytestmark = pytest.mark.stack


class Booked:
    """A topic of one partition of which a test says how far it is booked."""

    def __init__(self) -> None:
        self.end = 10
        self.booked = 0

    def ends(self) -> dict[int, int]:
        """Give the end as it is now."""
        return {0: self.end}

    def is_booked(self, ends: Mapping[int, int]) -> bool:
        """Compare with what the test said."""
        return self.booked >= ends[0]


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """A database with a grant of .4 USD of which the lease ended a minute ago, and one that runs."""
    made = make_engine(migrated_url)
    with transaction(made) as session:
        Tenants(session).add(Tenant(name="acme", usd_per_day=1.0))
    with transaction(made) as session:
        for need, lease_s in (("0.4", -60.0), ("0.1", 60.0)):
            Grants(session).grant(
                "acme", slot="r", day=date(2027, 1, 31), need=Decimal(need), share=0.0, lease_s=lease_s
            )
    yield made
    made.dispose()


def granted(engine: Engine) -> float:
    """Give what is lent."""
    with transaction(engine) as session:
        return float(
            session.scalar(text("SELECT sum(usd) FROM budget_grants WHERE released_at IS NULL")) or 0
        )


def test_nothing_comes_back_before_all_is_booked(engine: Engine) -> None:
    """The topic's end is noted once, so that traffic which goes on does not put it off for ever."""
    progress = Booked()
    returns = Returns(engine, progress, grace_s=30.0)
    counts = [returns.collect()]
    progress.end, progress.booked = 1_000, 9
    counts.append(returns.collect())
    progress.booked = 10
    counts.append(returns.collect())

    assert counts == [0, 0, 1]
    assert granted(engine) == 0.1


def test_a_lease_that_ended_just_now_is_left_alone(engine: Engine) -> None:
    """A decision that reserved in its last moment may not be committed yet."""
    progress = Booked()
    progress.booked = 10
    returns = Returns(engine, progress, grace_s=90.0)

    assert returns.collect() == 0
    assert granted(engine) == 0.5


@pytest.fixture
def usage(kafka_bootstrap: str) -> Settings:
    """Settings of an installation that has a usage topic of two partitions, and nothing else."""
    settings = Settings(kafka_bootstrap=kafka_bootstrap, topic_prefix=f"{uuid.uuid4().hex[:8]}.")
    create_topics(kafka_bootstrap, {f"{settings.topic_prefix}usage": {}}, partitions=2)
    return settings


def write(settings: Settings, *, commit: bool = True) -> None:
    """Write an entry to partition 0 in a transaction, which ends in a mark of its own."""
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap, transactional_id=uuid.uuid4().hex)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(f"{settings.topic_prefix}usage", value=b"entry", partition=0).get(10)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    producer.close()


def commit(settings: Settings, offset: int) -> None:
    """Commit an offset of partition 0, as a learner does."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, group_id="learner", enable_auto_commit=False
    )
    partition = TopicPartition(f"{settings.topic_prefix}usage", 0)
    consumer.assign([partition])
    consumer.commit({partition: OffsetAndMetadata(offset, "", -1)})
    consumer.close()


def test_what_is_booked_is_what_learners_have_committed(usage: Settings) -> None:
    """Two entries at 0 and 2, each with a mark behind it: booked once 3 is committed, marks or not."""
    progress = TopicProgress(usage, group_id="learner")
    empty = progress.is_booked(progress.ends())
    for _ in range(2):
        write(usage)
    write(usage, commit=False)
    ends = progress.ends()
    found = [progress.is_booked(ends)]
    for offset in (1, 3):
        commit(usage, offset)
        found.append(progress.is_booked(ends))

    assert ends == {0: 6, 1: 0}
    assert (empty, found) == (True, [False, False, True])


def test_entries_after_the_mark_are_not_waited_for(usage: Settings) -> None:
    """What is written later is none of this release's business."""
    progress = TopicProgress(usage, group_id="learner")
    write(usage)
    ends = progress.ends()
    commit(usage, 1)
    write(usage)

    assert progress.is_booked(ends)
    assert not progress.is_booked(progress.ends())


def test_a_broker_that_is_away_is_waited_for() -> None:
    """The error is one to be waited out."""
    progress = TopicProgress(Settings(kafka_bootstrap="127.0.0.1:1"), group_id="learner")

    with pytest.raises(WaitableError, match="Kafka"):
        progress.ends()
