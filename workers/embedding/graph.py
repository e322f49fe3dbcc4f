"""From a loaded sentence-transformers model to one ONNX graph with its pooling and normalisation inside."""

import warnings
from pathlib import Path
from typing import Any, Literal, cast

from workers.embedding.errors import UnsupportedModelError
from workers.embedding.extras import require

Pooling = Literal["mean", "cls"]

OPSET = 18
#: An ONNX file is one protobuf message, which ends at 2 GiB.
LARGEST_BYTES = 1_900_000_000


def read_pooling(model: Any, *, source: str) -> Pooling:  # noqa: ANN401 - as everything of sentence-transformers
    """Give the pooling of a model of the shape Transformer, Pooling (mean or cls), and perhaps Normalize.

    ``UnsupportedModelError`` names what a model of another shape has that the graph would not reproduce.
    """
    modules = list(model)
    names = [type(module).__name__ for module in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError(
            source, f"its modules are {', '.join(names)}; only Transformer, Pooling and Normalize can be"
        )
    mode = modules[1].pooling_mode
    if mode not in ("mean", "cls"):
        raise UnsupportedModelError(source, f"its pooling is {mode!r}; only 'mean' and 'cls' can be")
    if model.default_prompt_name is not None:
        raise UnsupportedModelError(
            source, f"it puts its prompt {model.default_prompt_name!r} before every text"
        )
    if model.truncate_dim is not None:
        raise UnsupportedModelError(source, f"it cuts its vectors to {model.truncate_dim} dimensions")
    if not model.tokenizer.is_fast:
        raise UnsupportedModelError(source, "its tokenizer has no tokenizer.json")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > LARGEST_BYTES:
        raise UnsupportedModelError(
            source, f"its weights take {size / 1e9:.1f} GB; one ONNX file holds less than 2"
        )
    return cast(Pooling, mode)


def write_graph(model: Any, pooling: Pooling, path: Path) -> None:  # noqa: ANN401
    """Trace a model into ``path``: ``input_ids`` and ``attention_mask`` to ``embedding``, unit rows.

    Rows are padded on the right. The tracer's warnings are muted: they guess at what may go wrong, and the
    export compares the outcome instead.
    """
    torch = require("torch", extra="export")
    ids = torch.tensor([[5, 6, 7], [5, 7, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    axes = {0: "rows", 1: "tokens"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _pooled(torch, model[0].auto_model, pooling),
            (ids, mask),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "rows"}},
            opset_version=OPSET,
            dynamo=False,
        )


def _pooled(torch: Any, transformer: Any, pooling: Pooling) -> Any:  # noqa: ANN401
    """Wrap a transformer in a module that ends in unit vectors; made here, as torch is loaded late."""

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, ids: Any, mask: Any) -> Any:  # noqa: ANN401
            states = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
            if pooling == "cls":
                vectors = states[:, 0]
            else:
                kept = mask.unsqueeze(-1).to(states.dtype)
                vectors = (states * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(vectors, dim=1)

    return Pooled().eval()
