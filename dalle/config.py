"""The transformer's size and shape, and how candidates are sampled from it."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from dalle.patterns import PATTERNS, paper_layers
from dalle.stream import Stream
from dalle_base.common.errors import UserError

BACKENDS = ("auto", "reference", "structured", "flex")
"""How attention may be computed: the names in `dalle.attention.KERNELS`, or the fastest of them."""
CHOICES = {
    "norm": ("layer", "rms"),
    "activation": ("gelu", "squared_relu", "swiglu"),
    "positions": ("learned", "rotary"),
    "attention": BACKENDS,
}
"""What some options of a model may be."""
PRECISIONS = ("float32", "bfloat16", "int8")
"""Of the transformer's weights when sampling (`dalle.precision`)."""


@dataclass
class TransformerConfig:
    """The size and shape of a `Transformer`; the defaults are the paper's 12-billion model."""

    RENAMED: ClassVar = {"conv_kernel": "pattern_options.conv.kernel"}

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
    pattern_options: dict[str, Any] = field(default_factory=dict)
    """Options of patterns by their names, such as {conv: {kernel: 5}}; docs/patterns.md lists
    them."""
    norm: str = "layer"
    """Normalisation before each branch: layer (LayerNorm, the paper) or rms (RMSNorm)."""
    qk_norm: bool = False
    """Normalise queries and keys within each head, so that large steps stay stable."""
    activation: str = "gelu"
    """Of the MLP: gelu (the paper), squared_relu, or swiglu (gated, with as many weights)."""
    positions: str = "learned"
    """How a code's place is told: learned (embeddings of row and column, the paper) or rotary
    (queries and keys turn with row and column)."""
    attention: str = "auto"
    """How attention is computed, never what: auto, reference, structured (CPU) or flex (CUDA)."""
    recompute: bool = False
    """Keep no activations inside blocks in training: less memory, a third more time."""
    dropout: float = 0.0
    """Share of activations dropped in training, after the embeddings and after each branch."""
    text_loss_weight: float = 0.125
    """Weight of the text part in the loss; the image part has the rest of 1."""
    code_noise: float = 0.0
    """Largest share of the codes read in training that are another image's, drawn for each example
    from 0 up to this: what comes next then follows from the caption, not from the first codes
    alone (0: the paper)."""
    sampled_codes: float = 0.0
    """Largest share of the codes read in training that the model samples itself, each from what
    truly comes before it, drawn for each example from 0 up to this: it sees its own mistakes
    (Mihaylova & Martins 2019; 0: the paper). A third more time."""
    label_smoothing: float = 0.0
    """Share of each code's target in training that is spread over all codes (0: the paper)."""
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
        for name in ("code_noise", "sampled_codes"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: write a share, 0 to 1")
        for name in ("text_drop", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}: write a share from 0 up to below 1"
                )
        if not 0 <= self.text_loss_weight <= 1:
            raise UserError(f"text_loss_weight is {self.text_loss_weight}: write a share, 0 to 1")
        if self.layers and len(self.layers) != self.depth:
            raise UserError(
                f"layers names {len(self.layers)} patterns but depth is {self.depth}: "
                "name one for each layer, or none for the paper's order"
            )
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"{name} is {value!r}: use one of {', '.join(choices)}")
        if self.positions == "rotary" and self.head_width % 4:
            raise UserError(
                f"head_width is {self.head_width}: positions=rotary turns pairs of channels by row "
                "and by column, so write a multiple of 4"
            )
        for key, names in (("layers", self.layers), ("pattern_options", self.pattern_options)):
            for name in names:
                if name not in PATTERNS:
                    raise UserError(f"{key}: no pattern {name!r}; there are {', '.join(PATTERNS)}")


@dataclass(frozen=True)
class Sampling:
    """How candidates are sampled. The defaults are the paper's (sections 2.6 and 3).

    Candidate k of a seed and a caption is always the same image, whatever the batch.
    """

    candidates: int = 1
    """Candidates of each caption."""
    seed: int | tuple[int, ...] = 0
    """One for all captions, or one for each."""
    first: int = 0
    """Number of the first candidate."""
    temperature: float = 1.0
    """Divides the logits; below 1 the likely codes become likelier."""
    top_k: int = 0
    """Sample from the k likeliest codes; 0: from all."""
    top_p: float = 1.0
    """Sample from the fewest likeliest codes that together have this probability; 1: from all."""
    guidance_scale: float = 1.0
    """Above 1 follows the caption more closely (classifier-free guidance)."""
    batch_size: int = 64
    """Candidates decoded at a time."""
    likelihood_weight: float = 0.0
    """What a nat of a candidate's log-likelihood adds to its score by the reranker (0: the paper).
    """

    def __post_init__(self) -> None:
        """Raise `UserError` for the first value that makes no sense."""
        for name in ("candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: write a number of at least 1")
        if self.first < 0:
            raise UserError(f"first is {self.first}: candidates are numbered from 0")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UserError(
                f"temperature is {self.temperature}: write a number above 0 (top_k=1 takes the "
                "likeliest)"
            )
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: write 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: write a share above 0, up to 1 (off)")
        if not (self.guidance_scale >= 0 and math.isfinite(self.guidance_scale)):
            raise UserError(
                f"guidance_scale is {self.guidance_scale}: write a number of at least 0 (1: no "
                "guidance)"
            )
        if not (self.likelihood_weight >= 0 and math.isfinite(self.likelihood_weight)):
            raise UserError(
                f"likelihood_weight is {self.likelihood_weight}: write a number of at least 0 (0: "
                "the reranker alone decides)"
            )


@dataclass
class SamplingDefaults:
    """How a model is sampled from where nothing else is asked for: the part of `Sampling` that a
    model's folder keeps. Chosen by measurement (`python -m experiments.choose_sampling`)."""

    temperature: float = 1.0
    """Divides the logits; 1 is the paper's."""
    top_k: int = 0
    """Sample from the k likeliest codes; 0: from all."""
    top_p: float = 1.0
    """Sample from the fewest likeliest codes that together have this probability; 1: from all."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1: none, the paper's."""
    likelihood_weight: float = 0.0
    """What a nat of log-likelihood adds to the reranker's score; 0: nothing, the paper's."""

    def validate(self) -> None:
        """Raise `UserError` on values that nothing can be sampled with."""
        self.sampling()

    def sampling(self, **options: Any) -> Sampling:
        """Return these as `Sampling`, with further `options` or others in their place."""
        return Sampling(**{**asdict(self), **options})


CODES_MODES = ("on_the_fly", "cached")


@dataclass
class CodesConfig:
    """Where the image codes of a training batch come from."""

    mode: str = "on_the_fly"
    """on_the_fly (encode each batch's augmented images, the paper) or cached (encode once)."""
    variants: int = 8
    """Augmented encodings kept of each image, where cached."""
    augmented_share: float = 1.0
    """Share of the examples that show an augmented encoding, where cached; the others show the
    image as it is."""
    augmented_updates: int = 0
    """Updates after which no example is augmented any more, where cached; 0: it never ends."""
    file: str = ""
    """Where they are kept; empty: in the run's folder."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.mode not in CODES_MODES:
            raise UserError(f"codes.mode is {self.mode!r}; use one of {', '.join(CODES_MODES)}")
        if self.variants < 1:
            raise UserError("codes.variants must be at least 1")
        if not 0 <= self.augmented_share <= 1:
            raise UserError(
                f"codes.augmented_share is {self.augmented_share}: write a share, 0 to 1"
            )
        if self.augmented_updates < 0:
            raise UserError("codes.augmented_updates counts updates: 0 or more")
        if self.keeps_clean and self.mode != "cached":
            raise UserError(
                "codes.augmented_share and codes.augmented_updates need codes.mode=cached"
            )

    @property
    def keeps_clean(self) -> bool:
        """Whether some examples show images as they are, beside augmented ones."""
        return self.augmented_share < 1 or self.augmented_updates > 0

    def augments(self, update: int, seed: int) -> bool:
        """Whether the example with a seed is augmented in an update: a pure function of both."""
        if self.augmented_updates and update >= self.augmented_updates:
            return False
        # A number from 0 up to below 1 that has nothing to do with which variant it is.
        drawn = (seed * 0x9E3779B97F4A7C15 % 2**64) / 2**64
        return drawn < self.augmented_share
