"""A simulated scorer: it knows which answers are right, and tells with noise."""

import hashlib
import json

from workers.local.simulated.answers import AnswerSource, Outcome, estimate_tokens

#: What the scorer is called among the LLMs of the server.
SCORER = "sim-scorer"
_LATENCY_S = 0.05
#: What it says of a wrong answer and of a right one lies in these ranges, so they overlap.
_WRONG, _RIGHT = (0.0, 0.6), (0.4, 1.0)


def score_answer(source: AnswerSource, prompt_id: str | None, text: str) -> Outcome:
    """Say how likely the answer in ``text`` is right: JSON with ``question`` and ``answer``, a message.

    Of a prompt that the source does not know, or a text of another form, it says that it does not know.
    """
    try:
        reply = str(json.loads(text)["answer"]["content"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return _say("I do not know.", text)
    if prompt_id is None:
        return _say("I do not know.", text)
    least, most = _RIGHT if source.grade(prompt_id, reply) == 1.0 else _WRONG
    digest = hashlib.blake2b(f"{prompt_id}/{reply}".encode(), digest_size=7).digest()
    return _say(f"{least + (most - least) * int.from_bytes(digest) / 2**56:.3f}", text)


def _say(said: str, text: str) -> Outcome:
    return Outcome(
        score=0.0,
        text=said,
        input_tokens=estimate_tokens(text),
        output_tokens=estimate_tokens(said),
        latency_s=_LATENCY_S,
    )
