"""Live prompts that may be put to a second LLM, whose reply nobody is sent."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import msgspec
import numpy as np

from routing.llms import LLM
from routing.policies.limits import allowed_llms
from routing.requests import Limits
from workers.errors import PoisonError
from workers.messages import Message
from workers.prompts import Prompt, read_prompt
from workers.reading import read_last
from workers.settings import Settings
from workers.storage.tenants import Tenant
from workers.tenants import admit, narrow
from workers.topics import Topics
from workers.transactions.consumer import read_message


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePrompt:
    """A prompt of somebody's, with all that limits who may see it."""

    prompt_id: str
    tenant: str
    #: What is embedded.
    text: str
    #: As it came, of OpenAI's chat.completions.
    body: Mapping[str, Any]
    input_tokens: float
    limits: Limits


def read_live(
    settings: Settings, tenants: Mapping[str, Tenant], *, most: int, share: float
) -> list[LivePrompt]:
    """Give up to ``most`` of the newest prompts of the ingest topic that may be copied, oldest first.

    Of all prompts a ``share`` is looked at, the same whoever asks. One text is given once.
    """
    records = read_last(settings, Topics(settings.topic_prefix).prompts, ceil(most / share))
    found = {one.text: one for one in copyable(map(read_message, records), settings, tenants, share=share)}
    return list(found.values())[-most:]


def copyable(
    batch: Iterable[Message], settings: Settings, tenants: Mapping[str, Tenant], *, share: float
) -> Iterable[LivePrompt]:
    """Give those prompts of a batch that may be copied, of the ``share`` that is looked at.

    Left out are prompts that a router would refuse, and those of tenants with whose prompts nobody is to
    explore (``tenant set --no-exploration``).
    """
    for message in batch:
        if not is_sampled(message.id_bytes, share):
            continue
        try:
            prompt, tenant = admit(read_prompt(message, settings), tenants)
        except PoisonError:
            continue  # the router dead-letters it: it is nothing to learn from
        if tenant.exploration_share == 0:
            continue
        yield _live(narrow(prompt, tenant), message)


def allowed_for(prompts: Sequence[LivePrompt], llm: LLM) -> list[LivePrompt]:
    """Give the prompts whose callers and tenants allow an LLM, and which it can take.

    What a caller says of costs, errors and deadlines is about its own answer, and holds nothing back here.
    """
    if not prompts:
        return []
    unknown = np.zeros((len(prompts), 1))
    found = allowed_llms(
        [
            Limits(
                candidates=one.limits.candidates,
                excluded=one.limits.excluded,
                capabilities=one.limits.capabilities,
                languages=one.limits.languages,
                max_output_tokens=one.limits.max_output_tokens,
            )
            for one in prompts
        ],
        [llm],
        input_tokens=np.array([one.input_tokens for one in prompts]),
        errors=unknown,
        ceilings=unknown,
    )
    return [one for one, allowed in zip(prompts, found.mask[:, 0].tolist(), strict=True) if allowed]


def is_sampled(prompt_id: bytes, share: float) -> bool:
    """Tell whether a prompt is in a share of all prompts, in 0..1: whoever asks, the same ones are."""
    drawn = int.from_bytes(hashlib.blake2b(prompt_id, digest_size=8).digest(), "big")
    return drawn < share * 2.0**64


def _live(prompt: Prompt, message: Message) -> LivePrompt:
    return LivePrompt(
        prompt_id=prompt.prompt_id,
        tenant=prompt.tenant,
        text=prompt.request.prompt_text,
        body=msgspec.json.decode(message.value or b"{}", type=dict[str, Any]),
        input_tokens=prompt.input_tokens,
        limits=prompt.limits,
    )
