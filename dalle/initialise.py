"""The weights that a transformer starts from."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def initialise(model: nn.Module, depth: int, tables: Iterable[Tensor]) -> None:
    """Initialise as GPT-2 does: N(0, 0.02), less for what writes to the residual stream.

    Args:
        model: its linear layers, embeddings and normalisations start anew.
        depth: layers, each of which adds two branches to the stream.
        tables: parameters that are looked up like embeddings.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    # The stream sums up two branches a layer: scaled, so that the sum keeps its size.
    for name, weight in model.named_parameters():
        if name.endswith(("attention.out.weight", "mlp_out.weight")):
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth))
    for table in tables:
        nn.init.normal_(table, std=0.02)


@torch.no_grad()
def start_from_codebook(embedding: nn.Embedding, codebook: Tensor) -> None:
    """Start the embeddings of codes [K, d] from a tokenizer's codebook [K, C].

    Codes that look alike then start alike. The vectors are centred and, where C is at most d,
    turned at random into d dimensions, which keeps all distances; of wider ones the d principal
    components are kept. Their spread is that of other embeddings.
    """
    centred = codebook.float() - codebook.float().mean(dim=0)
    width, d_model = centred.shape[1], embedding.embedding_dim
    if width > d_model:
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:d_model]
        vectors = centred @ axes.T
    else:
        vectors = centred @ torch.linalg.qr(torch.randn(d_model, width)).Q.T.to(centred.device)
    embedding.weight.copy_(vectors * (0.02 / vectors.std().clamp(min=1e-12)))
