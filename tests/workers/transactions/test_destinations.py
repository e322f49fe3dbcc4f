from collections.abc import Collection, Mapping

from workers.transactions.destinations import Destinations


class FakeDirectory:
    """Topics with their limits, and what was asked."""

    def __init__(self, **limits: int) -> None:
        self.known = limits
        self.asked: list[set[str]] = []

    def limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """Give the limits of those that exist."""
        self.asked.append(set(topics))
        return {topic: self.known[topic] for topic in topics if topic in self.known}


def test_existing_topics_are_asked_for_once() -> None:
    """All unknown names go into one question; the answer is remembered."""
    directory = FakeDirectory(a=10, b=20)
    destinations = Destinations(directory, clock=lambda: 0.0)

    assert destinations.limits(["a", "b"]) == {"a": 10, "b": 20}
    assert destinations.limits(["b", "a"]) == {"a": 10, "b": 20}
    assert directory.asked == [{"a", "b"}]


def test_missing_topics_are_asked_for_again_after_a_while() -> None:
    """A topic is believed to be missing for five seconds; created meanwhile, it is then found."""
    now = 0.0
    directory = FakeDirectory()
    destinations = Destinations(directory, clock=lambda: now)
    answers = [destinations.limits(["late"])]
    directory.known["late"] = 30
    now = 4.9
    answers.append(destinations.limits(["late"]))
    now = 5.1
    answers.append(destinations.limits(["late"]))

    assert answers == [{"late": None}, {"late": None}, {"late": 30}]
    assert len(directory.asked) == 2


def test_names_that_callers_invent_do_not_pile_up() -> None:
    """A flood of missing names leaves no more than a bounded number behind."""
    destinations = Destinations(FakeDirectory(), clock=lambda: 0.0)
    for number in range(25):
        destinations.limits([f"{number}-{other}" for other in range(1_000)])

    assert len(destinations._missing_until) <= 12_000
