"""Models of a few kilobytes, random and seeded, in every shape that the export must take or refuse."""

from pathlib import Path
from typing import Any

#: Pieces that the texts of the tests are made of; everything else is unknown to the tokenizer.
WORDS = ("a", "the", "prompt", "router", "what", "is", "how", "many", "?", ".", "##s", "##ing", "2", "+")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DIMENSION = 16
MAX_LENGTH = 12


def build_model(
    folder: Path, *, pooling: str = "mean", modules: tuple[Any, ...] = (), **settings: Any
) -> Path:
    """Save a BERT of dimension 16 that reads 12 tokens as a sentence-transformers model in ``folder``.

    ``modules`` come after the pooling; ``settings`` are those of ``SentenceTransformer``.
    """
    # Late: only tests that build a model pay for torch.
    import torch  # noqa: PLC0415
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer  # noqa: PLC0415
    from transformers import BertConfig, BertModel, BertTokenizerFast  # noqa: PLC0415

    torch.manual_seed(0)
    inner = folder.parent / f"{folder.name}-transformer"
    inner.mkdir(parents=True)
    (inner / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n")
    BertTokenizerFast(str(inner / "vocab.txt")).save_pretrained(inner)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(inner)
    model = SentenceTransformer(
        modules=[Transformer(str(inner)), Pooling(DIMENSION, pooling), *modules], device="cpu", **settings
    )
    model.save(str(folder), create_model_card=False)
    return folder
