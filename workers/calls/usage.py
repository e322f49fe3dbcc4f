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
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt that the provider had in its cache; 0 where it does not say."""
        told = 0 if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens or 0
        return min(told, self.prompt_tokens)

    @property
    def total(self) -> int:
        """All of them, as limits per minute count."""
        return self.prompt_tokens + self.completion_tokens
