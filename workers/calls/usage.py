"""What an endpoint says that a call used."""

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the endpoint counted them."""

    prompt_tokens: Count
    completion_tokens: Count

    @property
    def total(self) -> int:
        """All of them, as limits per minute count."""
        return self.prompt_tokens + self.completion_tokens
