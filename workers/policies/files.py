"""Policy files: YAML that maps each policy's name to its body."""

import re
from pathlib import Path
from typing import Any

from workers.documents import load_document, read_document
from workers.errors import UsageError
from workers.policies.declarations import read_policy

#: What may stand behind ``auto/`` and in a header.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def load_policy_file(path: Path) -> dict[str, dict[str, Any]]:
    """Give the body of each policy that a YAML file declares, by name; each can be built.

    Raises ``UsageError`` naming the file for one that cannot be read, and ``InvalidInputError`` naming policy
    and key for a body that declares no policy.
    """
    return _check(load_document(path), str(path))


def read_policies(raw: bytes, *, source: str = "the file") -> dict[str, dict[str, Any]]:
    """``load_policy_file`` of a file's content."""
    return _check(read_document(raw, source=source), source)


def load_policy_bodies(path: Path) -> dict[str, dict[str, Any]]:
    """Give the mapping of each policy of a YAML file, by name, unchecked but for the name.

    For a simulation, which takes bodies that leave open what it can calibrate. Raises ``UsageError``.
    """
    return _check_names(load_document(path), str(path))


def _check(found: object, source: str) -> dict[str, dict[str, Any]]:
    bodies = _check_names(found, source)
    for name, body in bodies.items():
        read_policy(name, body)
    return bodies


def _check_names(found: object, source: str) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{source} declares no policy: give a mapping, NAME: {{kind: ...}}")
    for name, body in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{source}: {str(name)[:60]!r} cannot name a policy: use letters, digits, '.', '_' and '-'"
            )
        if not isinstance(body, dict):
            raise UsageError(f"{source}: policy {name} must be a mapping with a kind, not {str(body)[:60]!r}")
    return found
