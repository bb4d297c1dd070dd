"""The sparse transformer of stage two: embeddings, blocks, two heads, the loss (section 2.2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dalle.attention import AUTO, WAYS, PatternAttention
from dalle.cache import Cache, CachePlan, PatternLayerCache, plan_cache
from dalle.loss import Losses, stream_losses
from dalle.patterns import PATTERNS, Pattern, PatternOptions, paper_layers
from dalle.stream import Stream
from dalle.text import PADDING
from training.errors import UserError


@dataclass
class TransformerConfig:
    """The size and shape of a `Transformer`; the defaults are the paper's 12-billion model."""

    text_vocab: int = 16384
    """Text tokens the model knows; at least as many as its text tokenizer has."""
    image_vocab: int = 8192
    """Image codes the model knows: the image tokenizer's codebook size."""
    text_length: int = 256
    """Text tokens in the stream; longer captions are cut, shorter ones padded."""
    rows: int = 32
    """Rows of the grid of image codes."""
    columns: int = 32
    """Columns of the grid of image codes."""
    depth: int = 64
    """Layers."""
    heads: int = 62
    """Attention heads in a layer."""
    head_width: int = 64
    """Width of an attention head."""
    d_model: int = 3968
    """Width of the residual stream; it need not be heads * head_width."""
    layers: list[str] = field(default_factory=list)
    """Attention pattern of each layer, first to last, depth names; empty for the paper's order."""
    conv_kernel: int = 11
    """Side of the convolutional pattern's window of codes: odd."""
    attention: str = AUTO
    """How attention is computed, never what: auto, reference, structured (CPU) or flex (CUDA)."""
    recompute: bool = False
    """Keep no activations inside blocks in training: less memory, a third more time."""
    dropout: float = 0.0
    """Share of activations dropped in training, after the embeddings and after each branch."""
    text_loss_weight: float = 0.125
    """Weight of the text part in the loss; the image part has the rest of 1."""
    text_drop: float = 0.0
    """Share of captions left out in training, which guidance in sampling needs (0: the paper)."""

    @property
    def stream(self) -> Stream:
        """The layout of the model's stream."""
        return Stream(self.text_length, self.rows, self.columns)

    @property
    def patterns(self) -> list[str]:
        """The pattern of each layer by name: `layers`, or the paper's order where it is empty."""
        return list(self.layers) or paper_layers(self.depth)

    def validate(self) -> None:
        """Raise `UserError` for the first value, or pair of values, that makes no model."""
        sizes = (
            *("text_vocab", "image_vocab", "text_length", "rows", "columns"),
            *("depth", "heads", "head_width", "d_model"),
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: write a number of at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: write a share from 0 up to below 1")
        if not 0 <= self.text_drop < 1:
            raise UserError(f"text_drop is {self.text_drop}: write a share from 0 up to below 1")
        if not 0 <= self.text_loss_weight <= 1:
            raise UserError(f"text_loss_weight is {self.text_loss_weight}: write a share, 0 to 1")
        if self.layers and len(self.layers) != self.depth:
            raise UserError(
                f"layers names {len(self.layers)} patterns but depth is {self.depth}: "
                "name one for each layer, or none for the paper's order"
            )
        if self.attention not in WAYS:
            raise UserError(f"attention is {self.attention!r}: use one of {', '.join(WAYS)}")
        for name in self.layers:
            if name not in PATTERNS:
                raise UserError(f"layers: no pattern {name!r}; there are {', '.join(PATTERNS)}")


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values [B, H, n, D] to [B, H, n, D]: a pattern's attention, or a cache's."""


class Attention(nn.Module):
    """Multi-head attention; one projection makes queries, keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.head_width
        self.qkv = nn.Linear(config.d_model, 3 * inner)
        self.out = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.heads)
        return self.out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))


class Block(nn.Module):
    """A pre-norm residual block: attention, then an MLP four times as wide as the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_model = config.d_model
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), attend))
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))))


class Transformer(nn.Module):
    """A decoder over the stream of text and image tokens (section 2.2, appendix B).

    With the paper's sizes (the defaults) it has 12,292,836,992 parameters.

    A text token's input is the sum of its vocabulary and position embeddings, and where there is
    no text a padding vector learned for that position stands in for the vocabulary embedding. A
    code's input is the sum of vocabulary, row and column embeddings. Text positions only predict
    text and image positions only codes, so each has a head of its own.

    Raises `UserError` for a config that makes no model.
    """

    def __init__(self, config: TransformerConfig) -> None:
        config.validate()
        super().__init__()
        self.config = config
        self.stream = config.stream
        d_model = config.d_model

        self.start = nn.Parameter(torch.empty(1, d_model))  # BOS
        self.text_embedding = nn.Embedding(config.text_vocab, d_model)
        self.text_position = nn.Parameter(torch.empty(config.text_length, d_model))
        self.text_padding = nn.Parameter(torch.empty(config.text_length, d_model))
        self.image_embedding = nn.Embedding(config.image_vocab, d_model)
        self.row_embedding = nn.Embedding(config.rows, d_model)
        self.column_embedding = nn.Embedding(config.columns, d_model)
        self.dropout = nn.Dropout(config.dropout)

        # One pattern, one mask, however many layers share it.
        options = PatternOptions(conv_kernel=config.conv_kernel)
        self.patterns = [PATTERNS[name](options) for name in config.patterns]
        self.attentions = nn.ModuleDict(
            {p.name: PatternAttention(p, self.stream, config.attention) for p in self.patterns}
        )
        self.blocks = nn.ModuleList(Block(config) for _ in self.patterns)

        self._plans: dict[tuple[str, torch.device], CachePlan] = {}

        self.norm = nn.LayerNorm(d_model)
        self.text_head = nn.Linear(d_model, config.text_vocab)
        self.image_head = nn.Linear(d_model, config.image_vocab)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as GPT-2 does: N(0, 0.02), less for what writes to the residual stream."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        # The stream sums up two branches a layer: scaled, so that the sum keeps its size.
        branch_std = 0.02 / math.sqrt(2 * self.config.depth)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp_out.weight")):
                nn.init.normal_(weight, std=branch_std)
        for table in (self.start, self.text_position, self.text_padding):
            nn.init.normal_(table, std=0.02)

    def mask(self, pattern: Pattern) -> Tensor:
        """The mask of a pattern in use, bool [T+RC, T+RC], on the model's device."""
        return self.attentions[pattern.name].get_buffer("mask")

    def new_cache(self) -> Cache:
        """An empty cache for decoding, for any batch."""
        return Cache([PatternLayerCache(self.cache_plan(pattern)) for pattern in self.patterns])

    def cache_plan(self, pattern: Pattern) -> CachePlan:
        """How layers of a pattern in use are cached; made once for each device."""
        mask = self.mask(pattern)
        place = (pattern.name, mask.device)
        if place not in self._plans:
            slots = pattern.slots(self.stream, mask)
            self._plans[place] = plan_cache(mask, self.stream.text_inputs, slots)
        return self._plans[place]

    def cache_bytes(self, captions: int, candidates: int) -> int:
        """Bytes of the caches for so many captions and candidates in all, in the weights' type.

        Each layer holds keys and values of every caption's text once and, for each candidate, of
        the codes that its pattern still reads.
        """
        token = 2 * self.config.heads * self.config.head_width * self.start.itemsize
        slots = sum(self.cache_plan(pattern).size for pattern in self.patterns)
        text = len(self.patterns) * self.stream.text_inputs
        return token * (candidates * slots + captions * text)

    def embed_text(self, text: Tensor) -> Tensor:
        """The inputs for BOS and the text: `text` [B, T], `PADDING` for none, to [B, T+1, d]."""
        if text.ndim != 2 or text.shape[1] != self.stream.text_length:
            raise UserError(
                f"text of shape {list(text.shape)}: the model reads [B, {self.stream.text_length}]"
            )
        words = self.text_embedding(text.clamp(min=0))
        words = torch.where((text == PADDING)[..., None], self.text_padding, words)
        start = self.start.expand(len(text), 1, -1)
        return self.dropout(torch.cat([start, words + self.text_position], dim=1))

    def embed_codes(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        """The inputs [B, n, d] for `codes` [B, n] with raster indices `index` [n] (0 to n - 1)."""
        if index is None:
            index = torch.arange(codes.shape[1], device=codes.device)
        place = self.row_embedding(self.stream.row(index))
        place = place + self.column_embedding(self.stream.column(index))
        return self.dropout(self.image_embedding(codes) + place)

    def hidden(self, x: Tensor, attends: Sequence[Attend] | None = None) -> Tensor:
        """The last layer's normalised output for inputs `x` [B, n, d], same shape.

        `x` are the stream's first n positions. A decoding step says instead how each layer attends
        to what came before, `attends`.
        """
        if attends is None:
            attends = [self.attentions[pattern.name] for pattern in self.patterns]
        for block, attend in zip(self.blocks, attends, strict=True):
            if self.config.recompute and self.training:
                x = checkpoint(block, x, attend, use_reentrant=False)
            else:
                x = block(x, attend)
        return self.norm(x)

    def logits(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for every text token and every code, given what comes before each.

        `text` [B, T] with `PADDING` where there is none, `codes` [B, n] in raster order. Returns
        [B, T, text vocabulary] and [B, min(n + 1, RC), K]: the code after the last is predicted
        too, where there is one. Raises `UserError` for shapes that do not fit the stream.
        """
        h_text, h_image = self._outputs(text, codes)
        return self.text_head(h_text), self.image_head(h_image)

    def _outputs(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads read: [B, T, d] and [B, min(n + 1, RC), d]."""
        if codes.ndim != 2 or codes.shape[1] > self.stream.image_length:
            raise UserError(
                f"codes of shape {list(codes.shape)}: the model reads at most "
                f"[B, {self.stream.image_length}]"
            )
        inputs = codes[:, : self.stream.image_length - 1]
        h = self.hidden(torch.cat([self.embed_text(text), self.embed_codes(inputs)], dim=1))
        return h[:, : self.stream.text_length], h[:, self.stream.text_length :]

    def loss(self, text: Tensor, codes: Tensor) -> Losses:
        """The training loss of `text` [B, T] and `codes` [B, RC]; see `stream_losses`."""
        if self.training and self.config.text_drop:
            left_out = torch.rand(len(text), 1, device=text.device) < self.config.text_drop
            text = text.masked_fill(left_out, PADDING)
        h_text, h_image = self._outputs(text, codes)
        weight = self.config.text_loss_weight
        return stream_losses(self.text_head, h_text, text, self.image_head, h_image, codes, weight)

    def forward(self, text: Tensor, codes: Tensor) -> Losses:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(text, codes)

    def hidden_weights(self) -> list[Tensor]:
        """The matrices between hidden layers: all but those of the two heads."""
        return [m.weight for m in self.blocks.modules() if isinstance(m, nn.Linear)]

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Two groups for an optimiser: matrices decay; gains, biases and embeddings do not."""
        matrices = {m.weight for m in self.modules() if isinstance(m, nn.Linear)}
        rest = [p for p in self.parameters() if p not in matrices]
        decayed = [p for p in self.parameters() if p in matrices]
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
