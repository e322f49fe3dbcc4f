from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.decision_ids import DecisionFacts, DecisionSigner, read_facts
from workers.errors import PoisonError, UsageError

KEY = b"0123456789abcdef"
FACTS = DecisionFacts(
    prompt_id="p-1",
    llm="acme/large",
    map_version="00112233445566ff",
    cells=(0, 7, 154),
    propensity=0.5,
    decided_at=1_800_000_000,
)


def test_a_token_says_what_was_signed() -> None:
    """A verified token gives back every fact."""
    signer = DecisionSigner({0: KEY}, current=0)

    assert signer.verify(signer.sign(FACTS)) == FACTS


def test_a_split_token_says_its_shares() -> None:
    """Of a soft map the token carries the cells that share the observation; 3 bytes each."""
    signer = DecisionSigner({0: KEY}, current=0)
    split = replace(FACTS, shares=((0, 128), (7, 100), (8, 28), (154, 128)))
    token = signer.sign(split)

    assert signer.verify(token) == split
    assert read_facts(token) == split
    assert (len(signer.sign(FACTS)), len(token)) == (75, 92)  # 56 bytes and 13 more, in base64


def test_a_token_fits_a_header_and_a_url() -> None:
    """Tokens are URL-safe and short: 80 bytes of facts make at most 120 characters."""
    token = DecisionSigner({0: KEY}, current=0).sign(FACTS)

    assert token.replace("-", "").replace("_", "").isalnum()
    assert len(token) <= 120


@given(data=st.data())
def test_no_changed_token_is_believed(data: st.DataObject) -> None:
    """Whatever character is changed or cut, the token is refused, and by class."""
    signer = DecisionSigner({0: KEY}, current=0)
    token = signer.sign(FACTS)
    place = data.draw(st.integers(0, len(token) - 2))  # the last character has bits that carry nothing
    other = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda letter: letter != token[place]))
    changed = data.draw(st.sampled_from([token[:place], token[:place] + other + token[place + 1 :]]))

    with pytest.raises(PoisonError) as refusal:
        signer.verify(changed)

    assert refusal.value.error_class in {"forged_decision", "malformed_decision"}


@given(text=st.text(max_size=300))
def test_any_text_is_refused_by_class(text: str) -> None:
    """Text that is no token never crashes the learner."""
    with pytest.raises(PoisonError) as refusal:
        DecisionSigner({0: KEY}, current=0).verify(text)

    assert refusal.value.error_class in {"forged_decision", "malformed_decision"}


def test_another_installation_s_token_is_forged() -> None:
    """A token signed with another key is refused as forged."""
    token = DecisionSigner({0: b"another key of 16+"}, current=0).sign(FACTS)

    with pytest.raises(PoisonError) as refusal:
        DecisionSigner({0: KEY}, current=0).verify(token)

    assert refusal.value.error_class == "forged_decision"


def test_a_key_is_rotated_without_losing_feedback() -> None:
    """Tokens of the old key verify while it is kept beside the new one."""
    old = DecisionSigner({0: KEY}, current=0)
    new = DecisionSigner({0: KEY, 1: b"fedcba9876543210"}, current=1)

    assert new.verify(old.sign(FACTS)) == FACTS
    assert new.verify(new.sign(FACTS)) == FACTS


def test_a_short_key_is_refused() -> None:
    """A key that could be guessed is refused before anything is signed."""
    with pytest.raises(UsageError, match="UNIROUTE_SIGNING_KEY"):
        DecisionSigner({0: b"short"}, current=0)
