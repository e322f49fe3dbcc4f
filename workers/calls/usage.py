"""What an endpoint says that a call used."""

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class PromptDetails(msgspec.Struct, frozen=True):
    """What is said of the prompt's tokens."""

    cached_tokens: Count | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the endpoint counted them."""

    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt that the provider had in its cache; 0 where it does not say readably."""
        try:
            details = msgspec.json.decode(self.prompt_tokens_details, type=PromptDetails | None)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return 0
        return 0 if details is None else min(details.cached_tokens or 0, self.prompt_tokens)

    @property
    def total(self) -> int:
        """All of them, as limits per minute count."""
        return self.prompt_tokens + self.completion_tokens
