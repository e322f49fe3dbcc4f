import msgspec
import pytest

from workers.errors import PoisonError
from workers.messages import Message
from workers.prompts import read_prompt
from workers.settings import Settings

BODY = {"model": "auto", "messages": [{"role": "user", "content": "What is 7 * 6?"}]}
REPLY_TO = ("uniroute-reply-to", b"uniroute.replies.app")


def make_message(
    *,
    value: bytes | None = None,
    key: bytes | None = b"p-1",
    headers: tuple[tuple[str, bytes], ...] = (REPLY_TO,),
    **body: object,
) -> Message:
    """Make a prompt message; ``body`` replaces fields of a good body."""
    return Message(
        topic="uniroute.prompts",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=key,
        value=msgspec.json.encode({**BODY, **body}) if value is None else value,
        headers=headers,
    )


def test_wishes_are_read_from_headers() -> None:
    """Limits, policy, candidates and deadline come from the headers."""
    message = make_message(
        headers=(
            REPLY_TO,
            ("uniroute-max-cost-usd", b"0.002"),
            ("uniroute-max-error", b"0.25"),
            ("uniroute-candidates", b"small, large"),
            ("uniroute-policy", b"thrifty"),
            ("uniroute-deadline", b"2030-01-31T12:00:00Z"),
            ("uniroute-excluded", b"tiny,old"),
            ("uniroute-capabilities", b"tools, audio"),
            ("uniroute-languages", b"de"),
            ("uniroute-tenant", b"acme"),
        )
    )

    prompt = read_prompt(message, Settings())

    assert prompt.limits.max_cost_usd == 0.002
    assert prompt.limits.max_error == 0.25
    assert prompt.limits.candidates == {"small", "large"}
    assert prompt.limits.excluded == {"tiny", "old"}
    assert prompt.limits.capabilities == {"tools", "audio"}
    assert prompt.limits.languages == {"de"}
    assert prompt.tenant == "acme"
    assert prompt.policy == "thrifty"
    assert prompt.deadline is not None
    assert prompt.deadline.isoformat() == "2030-01-31T12:00:00+00:00"


@pytest.mark.parametrize(
    ("model", "policy", "candidates"),
    [("auto", None, None), ("auto/thrifty", "thrifty", None), ("acme/large", None, {"acme/large"})],
)
def test_the_model_names_a_policy_or_an_llm(
    model: str, policy: str | None, candidates: set[str] | None
) -> None:
    """``auto`` asks for the default policy, ``auto/NAME`` for another, anything else for one LLM."""
    prompt = read_prompt(make_message(model=model), Settings())

    assert prompt.policy == policy
    assert prompt.limits.candidates == candidates


def test_what_a_body_needs_is_read_from_it() -> None:
    """Tools, images and JSON output are capabilities that the LLM must declare."""
    prompt = read_prompt(
        make_message(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            tools=[{"type": "function"}],
            response_format={"type": "json_schema", "json_schema": {}},
        ),
        Settings(),
    )

    assert prompt.limits.capabilities == {"tools", "vision", "json"}


def test_the_last_turn_of_the_user_is_embedded() -> None:
    """A conversation is placed by what its user asked last."""
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "part"}]},
    ]

    assert read_prompt(make_message(messages=turns), Settings()).request.prompt_text == "second\npart"


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        (make_message(value=b"{"), "not_json"),
        (make_message(value=b'{"model": NaN}'), "not_json"),
        (make_message(value=b"\xff\xfe"), "not_json"),
        (make_message(value=b"[]"), "invalid_body"),
        (make_message(model=3), "invalid_body"),
        (make_message(messages=[]), "invalid_body"),
        (make_message(messages="hello"), "invalid_body"),
        (make_message(max_tokens=0), "invalid_body"),
        (make_message(value=b'{"model":"auto","messages":' + b"[" * 100_000), "invalid_body"),
        (make_message(value=b""), "empty"),
        (make_message(value=b" " * 1_048_576), "too_large"),
        (make_message(key=None), "bad_key"),
        (make_message(key=b"\xff"), "bad_key"),
        (make_message(key=b"k" * 201), "bad_key"),
        (make_message(headers=()), "no_reply_topic"),
        (make_message(headers=(("uniroute-reply-to", b"payments"),)), "illegal_reply_topic"),
        (make_message(headers=(("uniroute-reply-to", b"uniroute.replies.a/b"),)), "illegal_reply_topic"),
        (make_message(headers=(("uniroute-reply-to", b"\xff"),)), "illegal_reply_topic"),
        (make_message(headers=(REPLY_TO, ("uniroute-max-cost-usd", b"nan"))), "bad_header"),
        (make_message(headers=(REPLY_TO, ("uniroute-max-cost-usd", b"-1"))), "bad_header"),
        (make_message(headers=(REPLY_TO, ("uniroute-max-error", b"1.5"))), "bad_header"),
        (make_message(headers=(REPLY_TO, ("uniroute-deadline", b"tomorrow"))), "bad_header"),
        (make_message(headers=(REPLY_TO, ("uniroute-deadline", b"2030-01-31T12:00:00"))), "bad_header"),
        (make_message(headers=(REPLY_TO, ("uniroute-candidates", b"x" * 9_000))), "bad_header"),
    ],
)
def test_what_cannot_be_read_has_a_class(message: Message, error_class: str) -> None:
    """Every kind of poison is told apart, and its sentence is not empty."""
    with pytest.raises(PoisonError) as refusal:
        read_prompt(message, Settings())

    assert refusal.value.error_class == error_class
    assert refusal.value.sentence
