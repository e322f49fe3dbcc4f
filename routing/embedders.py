"""What the core needs of an embedder: unit vectors, and a fingerprint that says whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from routing.errors import FingerprintMismatchError, InvalidInputError

FloatMatrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The identity of an embedding space: equal fingerprints mean vectors equal to within 1e-5 in cosine."""

    #: The model's public name, e.g. ``all-MiniLM-L6-v2``.
    name: str
    #: Length of a vector.
    dimension: int
    #: Arithmetic and what computes it, e.g. ``f32-openvino``: vectors differ in their last digits.
    precision: str
    #: Tokens beyond this many are not read.
    max_length: int
    #: SHA-256 over the model's graph and tokenizer, in hex.
    checksum: str

    def differences(self, other: "Fingerprint") -> tuple[str, ...]:
        """One phrase per field in which ``other`` differs; empty when the two are equal."""
        return tuple(
            f"{field.name} is {getattr(other, field.name)!r}, not {getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        )

    def require(self, other: "Fingerprint") -> None:
        """Raise ``FingerprintMismatchError`` unless ``other`` is equal."""
        if found := self.differences(other):
            raise FingerprintMismatchError(found)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Fingerprint":
        """Read what ``as_dict`` gave; ``InvalidInputError`` names a field that is missing or unknown."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            odd = ", ".join(sorted(expected ^ set(values)))
            raise InvalidInputError("fingerprint", f"fields missing or unknown: {odd}")
        return cls(**values)


class Embedder(Protocol):
    """Turns texts into vectors of unit length."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Whose vectors these are."""
        ...

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give one unit-length row per text, shape ``(len(texts), dimension)``, in the order of ``texts``."""
        ...
