import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.errors import InvalidInputError
from workers.embedding.tokens import clean_text, clean_texts


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("caf\u00e9 \u4e2d\U0001f600", "caf\u00e9 \u4e2d\U0001f600"),
        ("\ud800", "\ufffd"),
        ("a\udfffb", "a\ufffdb"),
        # A pair of surrogates, as a careless JSON decoder leaves it, is the character it stands for.
        ("\ud83d\ude00", "\U0001f600"),
        ("\x00", "\x00"),
    ],
    ids=ascii,
)
def test_lone_surrogates_become_replacement_characters(text: str, cleaned: str) -> None:
    """A tokenizer gets valid Unicode, and a valid text unchanged."""
    assert clean_text(text, max_length=8) == cleaned


def test_cuts_at_32_characters_per_token() -> None:
    """A model of 8 tokens reads 256 characters at most."""
    assert clean_text("x" * 300, max_length=8) == "x" * 256


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_whatever_comes_can_be_encoded(text: str) -> None:
    """No text is left that UTF-8 cannot hold, and cleaning twice changes nothing."""
    cleaned = clean_text(text, max_length=64)

    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned, max_length=64) == cleaned


def test_one_string_is_refused() -> None:
    """A bare string is a mistake, not a list of texts of one character."""
    with pytest.raises(InvalidInputError, match="one string"):
        clean_texts("prompt", max_length=8)
