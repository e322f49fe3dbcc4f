"""Reads the YAML documents that people write, without what YAML hides: no alias, no tag, no key twice."""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, ScalarNode

from workers.errors import UsageError

#: A file with more is refused unread.
MAX_FILE_BYTES = 1 << 20


def load_document(path: Path) -> Any:  # noqa: ANN401  # whatever the file holds
    """Give what a YAML file holds; ``UsageError`` naming the file for one that cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return read_document(raw, source=str(path))


def read_document(raw: bytes, *, source: str) -> Any:  # noqa: ANN401  # whatever it holds
    """``load_document`` of a file's content; ``source`` is what errors call it."""
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{source} has more than {MAX_FILE_BYTES} bytes: nobody writes that by hand")
    try:
        return yaml.load(raw, Loader=_Loader)  # noqa: S506  # a SafeLoader, made stricter
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deeply to be read") from error
    # PyYAML lets what Python says of impossible escapes and numbers pass through.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UsageError(f"{source} is not YAML that can be read: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return f"{' '.join(str(problem).split())[:200]}{place}"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # no types are published
    """YAML 1.2's plain scalars, so that ``on`` is a word and 1e-3 a number; no alias, no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        """Refuse aliases, a few lines of which unfold to gigabytes, and tags, which no policy needs."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise ConstructorError(None, None, "aliases are not taken: write the value out", event.start_mark)
        if getattr(event, "tag", None) not in {None, "!"}:
            raise ConstructorError(None, None, "tags are not taken: write the value alone", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Refuse a key that stands twice."""
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, ScalarNode):
                if key_node.value in seen:
                    raise ConstructorError(
                        None, None, f"the key {key_node.value[:60]!r} stands twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


def _read_int(loader: _Loader, node: ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _read_float(loader: _Loader, node: ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.inf|\.nan", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _read_float)
