"""Files by path or by URL: where a batch is read from, and where its results are copied to."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from workers.errors import UsageError

_COPY_BYTES = 1024 * 1024


def is_url(place: str) -> bool:
    """Tell whether a place is a URL, which fsspec reads, or a path of this machine."""
    return "://" in place


@contextmanager
def open_place(place: str) -> Iterator[BinaryIO]:
    """Open a file to read; ``UsageError`` where it cannot be, or where a URL's library is missing."""
    if not is_url(place):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"{place} is no file")
        with path.open("rb") as file:
            yield file
        return
    filesystem, path_there = _find(place)
    try:
        opened = filesystem.open(path_there, "rb")
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be read: {error}") from error
    with opened:
        yield cast(BinaryIO, opened)


def copy_to(source: Path, folder: str, name: str) -> None:
    """Copy a file into a folder, or below a URL, so that its new name never stands for half of it.

    Where it is a URL, the whole is put under a draft's name first and moved then. Raises ``OSError``, or what
    the store's library raises.
    """
    if not is_url(folder):
        copy_whole(source, Path(folder) / name)
        return
    filesystem, base = _find(folder)
    target = f"{base.rstrip('/')}/{name}"
    draft = f"{base.rstrip('/')}/.{name}.{uuid.uuid4().hex[:8]}.draft"
    filesystem.makedirs(base, exist_ok=True)
    filesystem.put_file(str(source), draft)
    filesystem.mv(draft, target)


def check_target(folder: str) -> None:
    """Try whether files can be put into a folder, or below a URL; ``UsageError`` says why not.

    The folder is made where it is missing, and nothing stays in it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        name = f".uniroute-{uuid.uuid4().hex[:8]}"
        probe = Path(scratch) / name
        probe.touch()
        try:
            copy_to(probe, folder, name)
            if is_url(folder):
                filesystem, base = _find(folder)
                filesystem.rm_file(f"{base.rstrip('/')}/{name}")
            else:
                (Path(folder) / name).unlink()
        except UsageError:
            raise
        except Exception as error:  # every object store's library has errors of its own
            raise UsageError(f"{folder} cannot be written: {error}; name another --output") from error


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file on this machine so that its new name never stands for half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    with source.open("rb") as read, draft.open("wb") as written:
        shutil.copyfileobj(read, written, _COPY_BYTES)
        written.flush()
        os.fsync(written.fileno())
    draft.replace(target)


def _find(url: str) -> tuple[Any, str]:
    """Give the file system of a URL and the path in it."""
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415  # only URLs need it
    except ImportError as error:
        raise UsageError(f"{url}: URLs need fsspec: pip install 'uniroute[batch]'") from error
    try:
        filesystem, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{url}: {error}") from error
    return filesystem, str(path)
