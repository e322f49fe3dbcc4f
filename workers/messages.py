"""What crosses Kafka: the raw message and record, the wire types of each topic, CloudEvents headers."""

from dataclasses import dataclass

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as consumed: bytes, and where they stood."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """Give the last value of a header, as Kafka's own tools do; ``None`` where it is absent."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
