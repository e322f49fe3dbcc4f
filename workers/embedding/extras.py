"""Loads what an extra brings, at the moment it is needed, and says which extra is missing."""

import importlib
import importlib.util
from types import ModuleType

from workers.embedding.errors import BackendUnavailableError


def require(module: str, *, extra: str) -> ModuleType:
    """Import a module of ``uniroute[extra]``; ``BackendUnavailableError`` names the extra if it is absent.

    A process thus carries the libraries of the back end that it runs, and no other's.
    """
    if not is_installed(module):
        raise BackendUnavailableError(module, f"it is not installed: pip install 'uniroute[{extra}]'")
    return importlib.import_module(module)


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
