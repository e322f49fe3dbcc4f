"""The topics of an installation: their names, partitions and retention, and how they come to exist."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from workers.errors import WaitableError
from workers.settings import Settings

#: The broker must take a prompt of the largest allowed size with its headers, and its dead letter with more.
MAX_RECORD_BYTES = 4 * 1024 * 1024

#: A person waits for it.
_CONNECT_MS = 10_000
_DAY_MS = 24 * 3600 * 1000
#: Callers compress with any codec they like: the broker unpacks it, so that no worker needs that codec.
_ANY_CODEC = {"compression.type": "uncompressed"}
_ILLEGAL = re.compile(r"[^a-zA-Z0-9._-]")
_LEGAL_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: The lanes of an LLM's dispatches, first things first, with what stands in the names of their topics.
LANES: Mapping[str, str] = {"interactive": "dispatch", "batch": "dispatch-batch", "probe": "dispatch-probe"}
DEFAULT_LANE = "interactive"
#: Leaves room for the prefixes of dispatch topics and of their dead letters.
_MAX_LLM_PART = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """A topic as it is declared: created so, and never changed behind an operator's back."""

    name: str
    partitions: int
    retention_ms: int
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """Names under one prefix.

    A prompt's key is its prompt id on every topic it crosses; feedback is keyed by decision id or prompt id.
    """

    prefix: str = "uniroute."

    @property
    def prompts(self) -> str:
        """Ingest: OpenAI chat.completions bodies."""
        return f"{self.prefix}prompts"

    @property
    def decisions(self) -> str:
        """One record per routed prompt, enough to decide again offline."""
        return f"{self.prefix}decisions"

    @property
    def feedback(self) -> str:
        """Scores of replies."""
        return f"{self.prefix}feedback"

    @property
    def usage(self) -> str:
        """What was reserved for each prompt and what answering it took, keyed by prompt id."""
        return f"{self.prefix}usage"

    @property
    def health(self) -> str:
        """Which LLMs' endpoints are failing, as executors see it; compacted, one partition."""
        return f"{self.prefix}health"

    @property
    def cancels(self) -> str:
        """Prompts that their callers want no answer to any more: keys are prompt ids; one partition."""
        return f"{self.prefix}cancels"

    @property
    def handled(self) -> str:
        """Which dead letters were redriven or dropped: keys are their ids; compacted, one partition."""
        return f"{self.prefix}dlq-handled"

    @property
    def dispatch_pattern(self) -> str:
        """A regular expression that matches every LLM's dispatch topics and nothing else."""
        return f"^{re.escape(self.prefix)}({'|'.join(LANES.values())})\\..+"

    def dispatch(self, llm: str, lane: str = DEFAULT_LANE) -> str:
        """Name the topic of one lane of an LLM's dispatches; a lane that is not known is the default one.

        A lane has a topic of its own because a consumer cannot pass over a backlog to what waits behind it.

        A name that Kafka would refuse (a slash, a colon, too long) is slugged and told apart by a hash.
        """
        slug = _ILLEGAL.sub("-", llm)[:_MAX_LLM_PART]
        if slug != llm:
            slug = f"{slug}.{hashlib.sha256(llm.encode()).hexdigest()[:8]}"
        return f"{self.prefix}{LANES.get(lane, LANES[DEFAULT_LANE])}.{slug}"

    def leading_lane(self, topic: str) -> str:
        """Name the topic of the default lane that a dispatch topic goes together with; others stand alone."""
        kind, dot, rest = topic.removeprefix(self.prefix).partition(".")
        if kind in LANES.values() and dot and topic.startswith(self.prefix):
            return f"{self.prefix}{LANES[DEFAULT_LANE]}.{rest}"
        return topic

    def dead_letters(self, topic: str) -> str:
        """Name the dead-letter topic of a topic; the lanes of an LLM share one."""
        return f"{self.prefix}dlq.{self.leading_lane(topic).removeprefix(self.prefix)}"


def is_legal_topic(name: str) -> bool:
    """Tell whether Kafka accepts the name."""
    return _LEGAL_TOPIC.fullmatch(name) is not None and name not in {".", ".."}


def core_topics(settings: Settings) -> tuple[TopicSpec, ...]:
    """Declare the topics that every installation has, with their dead letters."""
    topics = Topics(settings.topic_prefix)
    ingest = [
        TopicSpec(
            name=topics.prompts,
            partitions=settings.partitions,
            retention_ms=7 * _DAY_MS,
            configs=_ANY_CODEC,
        ),
        TopicSpec(
            name=topics.feedback,
            partitions=settings.partitions,
            retention_ms=30 * _DAY_MS,
            configs=_ANY_CODEC,
        ),
    ]
    decisions = TopicSpec(name=topics.decisions, partitions=settings.partitions, retention_ms=30 * _DAY_MS)
    usage = TopicSpec(name=topics.usage, partitions=settings.partitions, retention_ms=30 * _DAY_MS)
    health = TopicSpec(
        name=topics.health,
        partitions=1,
        retention_ms=_DAY_MS,
        configs={"cleanup.policy": "compact,delete", "segment.ms": str(_DAY_MS // 24)},
    )
    cancels = TopicSpec(name=topics.cancels, partitions=1, retention_ms=_DAY_MS, configs=_ANY_CODEC)
    # What says that a dead letter was handled must outlast the dead letter.
    handled = TopicSpec(
        name=topics.handled,
        partitions=1,
        retention_ms=60 * _DAY_MS,
        configs={"cleanup.policy": "compact,delete"},
    )
    return (
        *ingest,
        decisions,
        usage,
        health,
        cancels,
        handled,
        *(_dead_letters(topics, spec.name) for spec in (*ingest, usage)),
    )


def llm_topics(llm: str, settings: Settings) -> tuple[TopicSpec, ...]:
    """Declare the dispatch topics of an LLM, one per lane of as many partitions, with their dead letters."""
    topics = Topics(settings.topic_prefix)
    lanes = [
        TopicSpec(
            name=topics.dispatch(llm, lane), partitions=settings.dispatch_partitions, retention_ms=7 * _DAY_MS
        )
        for lane in LANES
    ]
    return (*lanes, _dead_letters(topics, lanes[0].name))


def reply_topic(name: str, settings: Settings) -> TopicSpec:
    """Declare a caller's reply topic."""
    return TopicSpec(name=name, partitions=settings.partitions, retention_ms=3 * _DAY_MS)


def _dead_letters(topics: Topics, name: str) -> TopicSpec:
    return TopicSpec(name=topics.dead_letters(name), partitions=1, retention_ms=30 * _DAY_MS)


def create_topics(settings: Settings, specs: Iterable[TopicSpec]) -> tuple[str, ...]:
    """Create what is missing, wait until it has leaders, and give the names that were new.

    Safe to call again and from several processes at once. Raises ``WaitableError`` where the broker is away.
    """
    wanted = {spec.name: spec for spec in specs}
    try:
        admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap.split(","))
        try:
            missing = {name: wanted[name] for name in sorted(set(wanted) - set(admin.list_topics()))}
            if not missing:
                return ()
            options = {name: _describe_options(spec, settings) for name, spec in missing.items()}
            answered = admin.create_topics(options, raise_errors=False)["topics"]
            created = [topic["name"] for topic in answered if _is_new(topic)]
            admin.wait_for_topics(list(missing))
        finally:
            admin.close()
    except KafkaError as error:
        raise WaitableError("Kafka", f"{type(error).__name__}: {error}") from error
    return tuple(sorted(created))


def _describe_options(spec: TopicSpec, settings: Settings) -> dict[str, Any]:
    """Say in the client's terms how a topic is to be."""
    return {
        "num_partitions": spec.partitions,
        "replication_factor": settings.replication_factor,
        "configs": {
            "retention.ms": str(spec.retention_ms),
            "max.message.bytes": str(MAX_RECORD_BYTES),
            **spec.configs,
        },
    }


def _is_new(answered: Mapping[str, Any]) -> bool:
    """Tell whether this call created the topic; raise what kept the broker from it.

    Where another process was faster, the topic is there, which is all that was asked.
    """
    problem = for_code(answered["error_code"])
    if problem is TopicAlreadyExistsError:
        return False
    if problem is not NoError:
        raise problem(f"{answered['name']}: {answered['error_message']}")
    return True


def describe_topics(settings: Settings) -> dict[str, int]:
    """Give the number of partitions of each topic of this installation that exists."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=settings.kafka_bootstrap.split(","), bootstrap_timeout_ms=_CONNECT_MS
        )
        try:
            names = [name for name in admin.list_topics() if name.startswith(settings.topic_prefix)]
            described = admin.describe_topics(names) if names else []
        finally:
            admin.close()
    except KafkaError as error:
        raise WaitableError("Kafka", f"{type(error).__name__}: {error}") from error
    return {topic["name"]: len(topic["partitions"]) for topic in described}


def batch_replies(reply_prefix: str) -> str:
    """Name the topic that the replies to all batches' lines come to."""
    return f"{reply_prefix}batches"
