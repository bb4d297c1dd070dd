"""The sparse transformer of stage two: embeddings, blocks, two heads, the loss (section 2.2)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dalle.attention import PatternAttention
from dalle.cache_plan import CachePlan, plan_cache
from dalle.config import TransformerConfig
from dalle.gradient_scales import GradientScales, in_full, scaled_branch
from dalle.initialise import initialise
from dalle.layers import ACTIVATIONS, NORMS, mlp_widths, rotary_angles, rotate, rotation
from dalle.loss import Losses, spoiled, stream_losses
from dalle.patterns import make_pattern
from dalle.patterns.base import Pattern
from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.data.text import PADDING

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
        widths = [config.head_width] * 2 if config.qk_norm else []
        self.qk_norms = nn.ModuleList(nn.RMSNorm(width) for width in widths)

    def forward(self, x: Tensor, attend: Attend, turn: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.heads)
        if self.qk_norms:
            q, k = (norm(each) for norm, each in zip(self.qk_norms, (q, k), strict=True))
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return self.out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))


class Block(nn.Module):
    """A pre-norm residual block: attention, then an MLP four times as wide as the stream.

    `turn` [2, n, D/2] rotates queries and keys, `scales` [2] are those of both branches' gradients.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_model, norm = config.d_model, NORMS[config.norm]
        written, read = mlp_widths(config.activation, d_model)
        self.attention_norm = norm(d_model)
        self.attention = Attention(config)
        self.mlp_norm = norm(d_model)
        self.mlp_in = nn.Linear(d_model, written)
        self.activation = ACTIVATIONS[config.activation]
        self.mlp_out = nn.Linear(read, d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attend: Attend,
        turn: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> Tensor:
        def attention(x: Tensor) -> Tensor:
            return self.dropout(self.attention(self.attention_norm(x), attend, turn))

        def mlp(x: Tensor) -> Tensor:
            return self.dropout(self.mlp_out(self.activation(self.mlp_in(self.mlp_norm(x)))))

        if scales is None:
            x = x + attention(x)
            return x + mlp(x)
        x = x + scaled_branch(attention, x, scales[0])
        return x + scaled_branch(mlp, x, scales[1])


class Transformer(nn.Module):
    """A decoder over the stream of text and image tokens (section 2.2, appendix B).

    With the paper's sizes (the defaults) it has 12,292,836,992 parameters.

    A text token's input is the sum of its vocabulary and position embeddings, and where there is
    no text a padding vector learned for that position stands in for the vocabulary embedding. A
    code's input is the sum of vocabulary, row and column embeddings. Text positions only predict
    text and image positions only codes, so each has a head of its own.

    Raises `UserError` for a config that makes no model.
    """

    tables = ("start", "text_position", "text_padding")
    turns: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        validate_all(config, "model")
        super().__init__()
        self.config = config
        self.stream = config.stream
        d_model = config.d_model

        self.start = nn.Parameter(torch.empty(1, d_model))  # BOS
        self.text_embedding = nn.Embedding(config.text_vocab, d_model)
        self.text_position = nn.Parameter(torch.empty(config.text_length, d_model))
        paddings = 1 if config.padding == "one" else config.text_length
        self.text_padding = nn.Parameter(torch.empty(paddings, d_model))
        self.image_embedding = nn.Embedding(config.image_vocab, d_model)
        rotary = config.positions == "rotary"
        self.row_embedding = None if rotary else nn.Embedding(config.rows, d_model)
        self.column_embedding = None if rotary else nn.Embedding(config.columns, d_model)
        # Not the angles: models in bfloat16 would round large ones by a quarter of a turn.
        turns = rotation(rotary_angles(self.stream, config.head_width)) if rotary else None
        self.register_buffer("turns", turns, persistent=False)
        self.dropout = nn.Dropout(config.dropout)

        # One pattern, one mask, however many layers share it.
        options = config.pattern_options
        self.patterns = [make_pattern(name, options.get(name)) for name in config.patterns]
        self.attentions = nn.ModuleDict(
            {p.name: PatternAttention(p, self.stream, config.attention) for p in self.patterns}
        )
        self.blocks = nn.ModuleList(Block(config) for _ in self.patterns)
        self._plans: dict[tuple[str, torch.device], CachePlan] = {}

        self.norm = NORMS[config.norm](d_model)
        self.gradient_scales = GradientScales(2 * config.depth) if config.gradient_scales else None
        self.text_head = nn.Linear(d_model, config.text_vocab)
        self.image_head = nn.Linear(d_model, config.image_vocab)
        initialise(self, config.depth, (self.start, self.text_position, self.text_padding))

    def mask(self, pattern: Pattern) -> Tensor:
        """The mask of a pattern in use, bool [T+RC, T+RC], on the model's device."""
        return self.attentions[pattern.name].get_buffer("mask")

    def cache_plan(self, pattern: Pattern) -> CachePlan:
        """How layers of a pattern in use are cached; made once for each device."""
        place = (pattern.name, self.start.device)
        if place not in self._plans:
            mask = pattern.mask(self.stream)
            slots = pattern.slots(self.stream, mask)
            plan = plan_cache(mask, self.stream.text_inputs, slots)
            self._plans[place] = plan.to(self.start.device)
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

    def embed_text(self, tokens: Tensor) -> Tensor:
        """The inputs for BOS and the text: `tokens` [B, T], `PADDING` for none, to [B, T+1, d]."""
        length = self.stream.text_length
        if tokens.ndim != 2 or tokens.shape[1] != length:
            raise UserError(f"text of shape {list(tokens.shape)}: the model reads [B, {length}]")
        x = self.text_embedding(tokens.clamp(min=0))
        x = torch.where((tokens == PADDING)[..., None], self.text_padding, x)
        start = self.start.expand(len(tokens), 1, -1)
        return self.dropout(torch.cat([start, x + self.text_position], dim=1))

    def embed_codes(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        """The inputs [B, n, d] for `codes` [B, n] with raster indices `index` [n] (0 to n - 1)."""
        if index is None:
            index = torch.arange(codes.shape[1], device=codes.device)
        x = self.image_embedding(codes)
        if self.row_embedding is not None and self.column_embedding is not None:
            place = self.row_embedding(self.stream.row(index))
            x = x + (place + self.column_embedding(self.stream.column(index)))
        return self.dropout(x)

    def hidden(
        self, x: Tensor, attends: Sequence[Attend] | None = None, index: Tensor | None = None
    ) -> Tensor:
        """The last layer's normalised output for inputs `x` [B, n, d], same shape.

        `x` are the stream's first n positions. A decoding step says instead how each layer attends
        to what came before, `attends`, and the raster `index` [n] of the codes that it reads.
        """
        if attends is None:
            attends = [self.attentions[pattern.name] for pattern in self.patterns]
        if (turn := self.turns) is not None:
            places = index + self.stream.text_inputs if index is not None else slice(x.shape[1])
            turn = turn[:, places]
        active = self.gradient_scales if self.training else None
        scales = [None] * len(self.blocks) if active is None else active.values.view(-1, 2)
        for block, attend, scale in zip(self.blocks, attends, scales, strict=True):
            inputs = x, attend, turn, scale
            if self.config.recompute and self.training:
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        return self.norm(x)

    def logits(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for every text token and every code, given what comes before each.

        Args:
            tokens: [B, T], with `PADDING` where there is no text.
            codes: [B, n], in raster order.

        Returns:
            [B, T, text vocabulary] and [B, min(n + 1, RC), K]: the code after the last is predicted
            too, where there is one.

        Raises:
            UserError: shapes that do not fit the stream.
        """
        h_text, h_image = self._outputs(tokens, codes)
        return self.text_head(h_text), self.image_head(h_image)

    def _outputs(self, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What the two heads read: [B, T, d] and [B, min(n + 1, RC), d]."""
        if codes.ndim != 2 or codes.shape[1] > self.stream.image_length:
            raise UserError(
                f"codes of shape {list(codes.shape)}: the model reads at most "
                f"[B, {self.stream.image_length}]"
            )
        inputs = codes[:, : self.stream.image_length - 1]
        h = self.hidden(torch.cat([self.embed_text(tokens), self.embed_codes(inputs)], dim=1))
        return h[:, : self.stream.text_length], h[:, self.stream.text_length :]

    def drop_text(self, tokens: Tensor) -> Tensor:
        """Leave out the text of some of `tokens` [B, T] in training, as `text_drop` says."""
        if not (self.training and self.config.text_drop):
            return tokens
        left_out = torch.rand(len(tokens), 1, device=tokens.device) < self.config.text_drop
        return tokens.masked_fill(left_out, PADDING)

    def loss(self, tokens: Tensor, codes: Tensor, text_tokens: Tensor | None = None) -> Losses:
        """The training loss of `tokens` [B, T] and `codes` [B, RC]; see `stream_losses`.

        With `text_tokens`, where these are part of a larger batch, its text is dropped already.
        """
        if text_tokens is None:
            tokens = self.drop_text(tokens)
        read = codes
        if self.training:
            outputs = partial(self._outputs, tokens, codes)
            read = spoiled(codes, self.config, self.image_head, outputs)
        h_text, h_image = self._outputs(tokens, read)
        heads = (self.text_head, h_text, tokens), (self.image_head, h_image, codes)
        config = self.config
        beside = (config.label_smoothing, config.z_loss) if self.training else (0.0, 0.0)
        with in_full(self.gradient_scales, codes.device):
            return stream_losses(*heads, config.text_loss_weight, *beside, text_tokens)

    def forward(self, tokens: Tensor, codes: Tensor, text_tokens: Tensor | None = None) -> Losses:
        """`loss`, under the name that data-parallel wrappers call."""
        return self.loss(tokens, codes, text_tokens)

    def hidden_weights(self) -> list[Tensor]:
        """The matrices between hidden layers: all but those of the two heads."""
        return [m.weight for m in self.blocks.modules() if isinstance(m, nn.Linear)]
