"""What a loop needs to know before it starts."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Self

from workers.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Where to consume, under which names, and how long to wait for what."""

    #: ``host:port``, several separated by commas.
    bootstrap: str
    #: Members of a group share the partitions of its topics.
    group_id: str
    #: Two live workers must never share it; a restarted one must keep it, to abort what it left open.
    transactional_id: str
    #: What to consume: names, or a regular expression that also takes in topics yet to come.
    topics: tuple[str, ...] = ()
    pattern: str | None = None
    #: Dead letters of topic ``{prefix}X`` go to ``{prefix}dlq.X``.
    topic_prefix: str = "uniroute."
    #: A member that the broker has not heard of for so long loses its partitions.
    session_timeout_ms: int = 10_000
    #: The broker aborts a transaction that has been open for so long; its readers are held up until then.
    transaction_timeout_ms: int = 12_000
    #: A transaction that has not ended by then is given up. Longer than a broker's restart, shorter than
    #: ``stop_timeout_s``.
    commit_timeout_ms: int = 7_000
    #: A stopping loop lets what is in flight finish for so long.
    stop_timeout_s: float = 7.0
    #: Messages of one topic in flight, at most; ``None`` where ``work`` alone sets the bound.
    max_in_flight_per_topic: int | None = None
    #: The topic whose partitions a topic's go together with; ``None`` where each goes by itself.
    leader_of: Callable[[str], str] | None = None
    #: Messages per poll, at most.
    max_poll_records: int = 2_000
    #: How soon a new topic that matches ``pattern``, or a new partition, is seen.
    metadata_max_age_ms: int = 30_000
    #: Gives a value that changes when such a topic may have come: it is looked for at once. Never blocks.
    topics_changed: Callable[[], Hashable] | None = None
    #: For the first connection to the cluster.
    connect_timeout_ms: int = 3_000
    #: A broker that does not answer for so long is taken for dead.
    request_timeout_ms: int = 10_000
    #: Between attempts to reach a broker that is down, at most.
    reconnect_backoff_ms: int = 500

    def __post_init__(self) -> None:
        if bool(self.topics) == bool(self.pattern):
            raise ValueError("a loop consumes either named topics or those that match a pattern")

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        role: str,
        topics: tuple[str, ...] = (),
        pattern: str | None = None,
        max_in_flight_per_topic: int | None = None,
        leader_of: Callable[[str], str] | None = None,
        topics_changed: Callable[[], Hashable] | None = None,
    ) -> Self:
        """Name group and transactions after the role, and tell its workers apart by their slots."""
        return cls(
            bootstrap=settings.kafka_bootstrap,
            group_id=f"{settings.topic_prefix}{role}",
            transactional_id=f"{settings.topic_prefix}{role}.{settings.worker_slot}",
            topics=topics,
            pattern=pattern,
            topic_prefix=settings.topic_prefix,
            max_in_flight_per_topic=max_in_flight_per_topic,
            leader_of=leader_of,
            topics_changed=topics_changed,
            session_timeout_ms=settings.session_timeout_ms,
            transaction_timeout_ms=settings.transaction_timeout_ms,
            # Where nobody tells of it, a topic is to be seen soon all the same.
            metadata_max_age_ms=2_000 if pattern else 30_000,
        )
