"""Maps as files: an npz archive of arrays with a JSON header, read without pickle."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.errors import InvalidInputError

_HEADER = "header"


def pack_arrays(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Give the content of a file that ``unpack_arrays`` reads; equal values give equal bytes."""
    text = json.dumps(dict(header), sort_keys=True, allow_nan=False).encode()
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{_HEADER: np.frombuffer(text, dtype=np.uint8)}, **arrays)
    return stream.getvalue()


def unpack_arrays(
    data: bytes, *, kind: str | None, names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the header and the arrays of those ``names``; anything else is an ``InvalidInputError``."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            arrays = {name: archive[name] for name in names}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInputError("cluster map", f"is not a map's file: {error}") from error
    if not isinstance(header, dict) or (kind is not None and header.get("kind") != kind):
        raise InvalidInputError("cluster map", f"is not a {kind} map")
    return header, arrays
