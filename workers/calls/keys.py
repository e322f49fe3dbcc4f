"""Keys by reference: read where a call is made, kept nowhere else."""

import os
from pathlib import Path

from workers.calls.errors import CallError
from workers.errors import UsageError

_LONGEST = 8 * 1024


def resolve_key(reference: str) -> str:
    """Give the key that ``env:NAME`` or ``file:/PATH`` refers to; empty means that none is asked for.

    A file is read anew for each connection pool, less the white space around it. Raises ``CallError`` of
    class ``auth`` where the variable is not set or the file cannot be read, or holds what no header can: a
    line break, say. The key never travels otherwise.
    """
    if not reference:
        return "none"
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise CallError("auth", f"the environment variable {name} is not set where the executor runs")
        key, where = os.environ[name], f"the environment variable {name}"
    elif kind == "file":
        key, where = _read_file(name), f"the file {name}"
    else:
        raise UsageError("a key is referred to as env:NAME or file:/PATH, and is never given itself")
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise CallError("auth", f"{where} holds no key that can be sent")
    return key


def _read_file(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return file.read(_LONGEST).decode(errors="replace").strip()
    except OSError as error:
        raise CallError("auth", f"the file {name} cannot be read: {type(error).__name__}") from error
