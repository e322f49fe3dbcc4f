from hypothesis import given
from hypothesis import strategies as st

from workers.messages import Message, Record
from workers.transactions.dead_letters import CUT_HEADER, cut_to_fit, dead_letter, record_bytes


def message(
    *,
    key: bytes | None = b"key",
    value: bytes | None = b"value",
    headers: tuple[tuple[str, bytes], ...] = (),
) -> Message:
    """A message at offset 7 of partition 3."""
    return Message(
        topic="uniroute.prompts", partition=3, offset=7, timestamp_ms=0, key=key, value=value, headers=headers
    )


def letter_of(original: Message, *, limit: int = 1_000_000) -> Record:
    """Its dead letter."""
    return dead_letter(
        original,
        error_class="not_json",
        sentence="the value is not JSON",
        attempts=2,
        topic_prefix="uniroute.",
        group="uniroute.router",
        limit=limit,
    )


def test_the_original_is_kept_beside_the_reasons() -> None:
    """Key, value and headers stay as they came, under the topic of the dead letters of their topic."""
    letter = letter_of(message(headers=(("uniroute-reply-to", b"replies"), ("twice", b"1"), ("twice", b"2"))))

    assert (letter.topic, letter.key, letter.value) == ("uniroute.dlq.prompts", b"key", b"value")
    assert letter.headers == (
        ("__dlq.errors.topic", b"uniroute.prompts"),
        ("__dlq.errors.partition", b"3"),
        ("__dlq.errors.offset", b"7"),
        ("__dlq.errors.group", b"uniroute.router"),
        ("__dlq.errors.delivery.count", b"2"),
        ("__dlq.errors.message", b"the value is not JSON"),
        ("uniroute-dlq-class", b"not_json"),
        ("uniroute-dlq-disposition", b"rejected"),
        ("uniroute-dlq-attempts", b"2"),
        ("uniroute-reply-to", b"replies"),
        ("twice", b"1"),
        ("twice", b"2"),
    )


def test_a_message_of_nothing_gets_an_empty_value() -> None:
    """Neither key nor value cannot be produced; a null value with a key can, and stays null."""
    assert letter_of(message(key=None, value=None)).value == b""
    assert letter_of(message(value=None)).value is None


def test_a_letter_that_fails_again_says_so_once() -> None:
    """Reasons of an earlier dead-lettering are replaced, not piled up."""
    first = letter_of(message())
    again = letter_of(message(headers=first.headers))

    assert again.headers == first.headers


def test_a_sentence_that_quotes_anything_can_be_written() -> None:
    """Lone surrogates and endless text in the sentence break nothing."""
    letter = dead_letter(
        message(), error_class="x", sentence="\udcff" + "y" * 10_000, attempts=1, topic_prefix="uniroute."
    )

    assert dict(letter.headers)["__dlq.errors.message"] == b"?" + b"y" * 499


def test_what_is_cut_is_named() -> None:
    """A value of 5,000 bytes under a limit of 2,000 keeps its beginning, and a header says how much."""
    letter = letter_of(message(value=b"v" * 5_000), limit=2_000)
    kept = len(letter.value or b"")

    assert dict(letter.headers)[CUT_HEADER] == b"value 5000 -> %d" % kept
    assert letter.key == b"key"
    assert 1_000 < kept < 2_000


@given(
    key=st.none() | st.binary(max_size=4_000),
    value=st.none() | st.binary(max_size=4_000),
    headers=st.lists(st.tuples(st.text(max_size=500), st.binary(max_size=2_000)), max_size=5),
    limit=st.integers(1_500, 6_000),
)
def test_letters_always_fit(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], limit: int
) -> None:
    """Whatever the message, its dead letter fits, keeps prefixes, and names a cut if there is one."""
    letter = letter_of(message(key=key, value=value, headers=tuple(headers)), limit=limit)

    assert record_bytes(letter) <= limit
    assert (key or b"").startswith(letter.key or b"")
    assert (value or b"").startswith(letter.value or b"")
    whole = (letter.key or b"", letter.value or b"") == (key or b"", value or b"")
    own = [header for header in headers if header[0].startswith(("__dlq.errors.", "uniroute-dlq-"))]
    complete = len(letter.headers) >= 9 + len(headers) - len(own)
    assert (CUT_HEADER in dict(letter.headers)) == (not (whole and complete))


def test_a_letter_that_fits_is_left_alone() -> None:
    """Cutting what is within the limit gives the same record."""
    letter = letter_of(message())

    assert cut_to_fit(letter, limit=record_bytes(letter)) is letter
