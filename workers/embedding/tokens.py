"""Texts to token ids, for texts of any origin: no text crashes it, and none takes long."""

from collections.abc import Sequence
from pathlib import Path

from routing.errors import InvalidInputError
from workers.embedding.extras import require

#: Characters read per token of a model's maximum length. English has about 4, so only a text that is
#: nearly all white space or one endless word ends earlier for it than it would for the tokenizer.
CHARACTERS_PER_TOKEN = 32


def clean_text(text: str, *, max_length: int) -> str:
    """Make a text fit for a tokenizer: at most ``32 * max_length`` characters, and valid Unicode.

    A tokenizer reads a whole text before it truncates: 1 MB takes it seconds, so it is cut first.
    Surrogates that form a pair are joined; lone ones, which no tokenizer accepts, become U+FFFD.
    """
    text = text[: CHARACTERS_PER_TOKEN * max_length]
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_texts(texts: Sequence[str], *, max_length: int) -> list[str]:
    """Clean each text; ``InvalidInputError`` for a bare string, else read as texts of one character."""
    if isinstance(texts, str):
        raise InvalidInputError("texts", "is one string; give a list of strings")
    return [clean_text(text, max_length=max_length) for text in texts]


class Tokens:
    """A tokenizer file, read for one maximum length."""

    def __init__(self, path: Path, *, max_length: int, special: bool = True) -> None:
        self._tokenizer = require("tokenizers", extra="onnx").Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._max_length = max_length
        self._special = special

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most ``max_length``; see ``clean_text`` for what is read of long texts.

        Works in the caller's thread alone: a batch call would start a thread per core, and take from the
        model the cores that it was given, to save a fiftieth of the work.
        """
        encode = self._tokenizer.encode_batch_fast
        return [
            encode([text], add_special_tokens=self._special)[0].ids
            for text in clean_texts(texts, max_length=self._max_length)
        ]
