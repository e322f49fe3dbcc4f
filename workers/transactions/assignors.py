"""Which member gets which partition: cooperative and sticky, with topics that go together kept together."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from workers.transactions.work import Partition

#: Names the topic whose assignment a topic follows: itself, where it goes by its own.
LeaderOf = Callable[[str], str]


class LanesAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka publishes no types
    """Assigns the leading topics as cooperative-sticky does, and the others along with them.

    Each partition of another topic goes to the owner of the same partition of its leading topic.

    So whoever has partition 2 of an LLM's interactive lane has partition 2 of its batch lane too, and knows
    by itself which goes first. A partition whose present owner has yet to give it up is left out until the
    next round, as cooperative rebalancing asks. Partitions that the leading topic does not have wrap around;
    topics without a leading one are assigned on their own.
    """

    name = "uniroute-lanes"

    def __init__(self, leader_of: LeaderOf) -> None:
        super().__init__()
        self._leader_of = leader_of

    def assign(self, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:  # noqa: ANN401
        """Give each member's partitions, by member id."""
        topics = {topic for member in members for topic in member.metadata.topics}
        followers = {
            topic for topic in topics if self._leader_of(topic) != topic and self._leader_of(topic) in topics
        }
        leading = super().assign(cluster, [_without(member, followers) for member in members])
        owned = _owned(members)
        assigned = {
            member_id: {topic: list(numbers) for topic, numbers in assignment.assigned_partitions}
            for member_id, assignment in leading.items()
        }
        owners = {
            (topic, number): member_id
            for member_id, by_topic in assigned.items()
            for topic, numbers in by_topic.items()
            for number in numbers
        }
        for topic in sorted(followers):
            count = len(cluster.partitions_for_topic(self._leader_of(topic)) or ())
            for number in sorted(cluster.partitions_for_topic(topic) or ()):
                owner = owners.get((self._leader_of(topic), number % count)) if count else None
                if owner is not None and owned.get((topic, number), owner) == owner:
                    assigned[owner].setdefault(topic, []).append(number)
        return {
            member_id: ConsumerProtocolAssignment(self.version, sorted(by_topic.items()), b"")
            for member_id, by_topic in assigned.items()
        }


def _without(member: Any, topics: set[str]) -> SimpleNamespace:  # noqa: ANN401
    """Give a member as if some topics did not exist."""
    metadata = member.metadata
    return SimpleNamespace(
        member_id=member.member_id,
        metadata=SimpleNamespace(
            topics=[topic for topic in metadata.topics if topic not in topics],
            owned_partitions=[one for one in metadata.owned_partitions or () if one.topic not in topics],
            generation_id=metadata.generation_id,
        ),
    )


def _owned(members: Sequence[Any]) -> Mapping[Partition, str]:
    """Give the present owners; where two claim a partition, it is nobody's to give away in this round."""
    claims: defaultdict[Partition, set[str]] = defaultdict(set)
    for member in members:
        for one in member.metadata.owned_partitions or ():
            for number in one.partitions:
                claims[one.topic, number].add(member.member_id)
    return {partition: "".join(sorted(names)) for partition, names in claims.items()}
