"""Which topics records can be produced to, and how large a record each takes."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

#: The broker's default ``max.message.bytes``, taken where a topic's own is not ours to read.
DEFAULT_LIMIT = 1_048_588
#: No larger record is produced, whatever a topic would take.
LARGEST_RECORD = 32 * 1024 * 1024

_LIMIT_CONFIG = "max.message.bytes"
# How long a missing topic is believed to be missing.
_MISSING_S = 5.0
# Names of missing topics come from callers: more of them than this are forgotten.
_MOST_MISSING = 10_000


class TopicDirectory(Protocol):
    """Asked of the cluster."""

    def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """Give the largest record of each of these topics that exists and can be described."""


class ClusterTopics:
    """The directory that asks the cluster. Raises ``KafkaError`` while no broker answers."""

    def __init__(self, admin: KafkaAdminClient) -> None:
        self._admin = admin

    def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """Two requests, whatever the number of topics."""
        described = self._admin.describe_topics(sorted(topics))
        # No partitions: unknown, of an illegal name, or not ours to see.
        present = [topic["name"] for topic in described if topic["partitions"]]
        if not present:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in present]
        configs = self._admin.describe_configs(resources, config_filter="all").get("topic", {})
        return {name: min(LARGEST_RECORD, _limit(configs.get(name))) for name in present}


def _limit(configs: Mapping[str, Mapping[str, str]] | None) -> int:
    """Read the limit from a topic's configs; they are absent where they are not ours to read."""
    limit = (configs or {}).get(_LIMIT_CONFIG)
    return int(limit["value"]) if limit else DEFAULT_LIMIT


class Destinations:
    """Remembers what the directory said, because asking takes a round trip.

    Without it one record for a topic that does not exist would stall everything: the client library waits for
    such a topic's metadata until it times out. Existing topics are remembered for good, missing ones for five
    seconds.
    """

    def __init__(self, directory: TopicDirectory, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._limits: dict[str, int] = {}
        self._missing_until: dict[str, float] = {}

    def limits(self, topics: Collection[str]) -> Mapping[str, int | None]:
        """Give the largest record that each topic takes, in bytes; ``None`` for a topic that is missing."""
        now = self._clock()
        unknown = {
            topic
            for topic in topics
            if topic not in self._limits and self._missing_until.get(topic, 0.0) <= now
        }
        if unknown:
            found = self._directory.limits(unknown)
            self._limits.update(found)
            if len(self._missing_until) > _MOST_MISSING:
                self._missing_until.clear()
            self._missing_until.update((topic, now + _MISSING_S) for topic in unknown - found.keys())
        return {topic: self._limits.get(topic) for topic in topics}
