"""Who gets which partition when the lanes of an LLM must stay together."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from workers.transactions.assignors import LanesAssignor

Owned = Mapping[str, list[int]]


class FakeCluster:
    """Topics with their numbers of partitions."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def topics(self) -> set[str]:
        """As the client's metadata."""
        return set(self._counts)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """As the client's metadata."""
        return set(range(self._counts[topic])) if topic in self._counts else None


def member(name: str, topics: list[str], owned: Owned) -> Any:
    """A member as it joins."""
    return SimpleNamespace(
        member_id=name,
        metadata=SimpleNamespace(
            topics=topics,
            owned_partitions=[
                SimpleNamespace(topic=topic, partitions=numbers) for topic, numbers in owned.items()
            ],
            generation_id=1,
        ),
    )


def assign(counts: Mapping[str, int], members: Mapping[str, Owned]) -> dict[str, dict[str, list[int]]]:
    """One round: partitions by topic and member; ``batch-X`` follows ``X``."""
    assignor = LanesAssignor(lambda topic: topic.removeprefix("batch-"))
    assigned = assignor.assign(
        FakeCluster(counts), [member(name, sorted(counts), owned) for name, owned in members.items()]
    )
    return {name: dict(one.assigned_partitions) for name, one in assigned.items()}


COUNTS = {"a": 4, "batch-a": 4, "b": 4, "batch-b": 4}


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5])
def test_lanes_stay_together(members: int) -> None:
    """Each partition of a lane is with the owner of its leading partition, and every one is with somebody."""
    assigned = assign(COUNTS, {f"m{number}": {} for number in range(members)})

    for topic in ("a", "b"):
        assert all(owned.get(topic) == owned.get(f"batch-{topic}") for owned in assigned.values())
        assert sorted(n for owned in assigned.values() for n in owned.get(topic, [])) == [0, 1, 2, 3]


def test_a_newcomer_gets_nothing_that_is_owned_yet() -> None:
    """In the first round the owner's share shrinks; in the second the newcomer gets what was given up."""
    first = assign(COUNTS, {"old": {topic: [0, 1, 2, 3] for topic in COUNTS}, "new": {}})
    second = assign(COUNTS, {"old": first["old"], "new": first["new"]})

    assert first["new"] == {}
    assert sum(map(len, first["old"].values())) == 8
    assert sum(map(len, second["new"].values())) == 8
    assert all(second["new"].get(topic) == second["new"].get(f"batch-{topic}") for topic in ("a", "b"))


def test_a_lane_whose_owner_lags_waits_a_round() -> None:
    """A partition of a lane that another member still owns is not given away with its leading partition."""
    assigned = assign({"a": 1, "batch-a": 1}, {"one": {"a": [0]}, "two": {"batch-a": [0]}})

    assert assigned == {"one": {"a": [0]}, "two": {}}


def test_a_topic_without_a_leading_one_goes_by_itself() -> None:
    """A lane of an LLM whose leading topic does not exist is assigned all the same."""
    assert assign({"batch-a": 2}, {"one": {}}) == {"one": {"batch-a": [0, 1]}}
