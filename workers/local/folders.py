"""Where the local stack keeps its things on this machine, and how it writes them."""

import os
from pathlib import Path


def data_folder() -> Path:
    """The default home of ``uniroute up``: ``$XDG_DATA_HOME/uniroute``, else ``~/.local/share/uniroute``."""
    return _xdg("XDG_DATA_HOME", "~/.local/share")


def cache_folder() -> Path:
    """What can be made again: ``$XDG_CACHE_HOME/uniroute``, else ``~/.cache/uniroute``."""
    return _xdg("XDG_CACHE_HOME", "~/.cache")


def write_whole(file: Path, text: str) -> None:
    """Write a small file so that who reads it, whatever happens, finds the old text or the new."""
    draft = file.with_name(f"{file.name}.draft-{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def _xdg(variable: str, default: str) -> Path:
    """The XDG rule: a relative path in the variable counts as unset."""
    root = Path(os.environ.get(variable, ""))
    return (root if root.is_absolute() else Path(default).expanduser()) / "uniroute"
