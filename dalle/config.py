"""The transformer's size and shape, and how candidates are sampled from it."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

from dalle.patterns import PATTERNS, paper_layers
from dalle.stream import Stream
from dalle_base.common.bounds import (
    Bounds,
    From0,
    GridSide,
    Layers,
    Share,
    ShareBelow1,
    Vocabulary,
    Weight,
    Width,
    check_bounds,
)
from dalle_base.common.errors import UserError
from dalle_base.common.free import Free
from dalle_base.common.size import LeastSize

BACKENDS = ("auto", "reference", "structured", "flex")
"""How attention may be computed: the names in `dalle.attention.KERNELS`, or the fastest of them."""
CHOICES = {
    "norm": ("layer", "rms"),
    "activation": ("gelu", "squared_relu", "swiglu"),
    "positions": ("learned", "rotary"),
    "padding": ("position", "one"),
    "attention": BACKENDS,
}
"""What some options of a model may be."""
PRECISIONS = ("float32", "bfloat16", "int8")
"""Of the transformer's weights when sampling (`dalle.precision`)."""
TextLength = Annotated[int, Bounds(1, 2**14)]
Candidates = Annotated[int, Bounds(1, 2**14)]
FirstCandidate = Annotated[int, Bounds(0, 2**32 - 1)]
SampleSeed = Annotated[int, Bounds(-(2**63), 2**64 - 1)]
"""Any number that has 64 bits: it is hashed."""
Temperature = Annotated[float, Bounds(0, 1e6, above=True, hint="top_k=1 takes the likeliest")]
TopP = Annotated[float, Bounds(0, 1, above=True)]


@dataclass
class TransformerConfig:
    """The size and shape of a `Transformer`; the defaults are the paper's 12-billion model."""

    RENAMED: ClassVar = {"conv_kernel": "pattern_options.conv.kernel"}

    text_vocab: Vocabulary = 16384
    """Text tokens the model knows; at least as many as its text tokenizer has."""
    image_vocab: Vocabulary = 8192
    """Image codes the model knows: the image tokenizer's codebook size."""
    text_length: TextLength = 256
    """Text tokens in the stream; longer captions are cut, shorter ones padded."""
    rows: GridSide = 32
    """Rows of the grid of image codes."""
    columns: GridSide = 32
    """Columns of the grid of image codes."""
    depth: Layers = 64
    """Layers."""
    heads: Layers = 62
    """Attention heads in a layer."""
    head_width: Width = 64
    """Width of an attention head."""
    d_model: Width = 3968
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
    padding: str = "position"
    """What stands where a caption has no token: a vector learned for each position (the paper), or
    one for all."""
    attention: Free[str] = "auto"
    """How attention is computed, never what: auto, reference, structured (CPU) or flex (CUDA)."""
    recompute: Free[bool] = False
    """Keep no activations inside blocks in training: less memory, a third more time."""
    gradient_scales: bool = False
    """Scale the gradients of each residual branch by itself, which run.mixed_precision=fp16 needs
    in deep models (the paper); other precisions do without."""
    dropout: ShareBelow1 = 0.0
    """Share of activations dropped in training, after the embeddings and after each branch."""
    text_loss_weight: Share = 0.125
    """Weight of the text part in the loss; the image part has the rest of 1."""
    code_noise: Share = 0.0
    """Largest share of the codes read in training that are another image's, drawn for each example
    from 0 up to this: what comes next then follows from the caption, not from the first codes
    alone (0: the paper)."""
    sampled_codes: Share = 0.0
    """Largest share of the codes read in training that the model samples itself, each from what
    truly comes before it, drawn for each example from 0 up to this: it sees its own mistakes
    (Mihaylova & Martins 2019; 0: the paper). A third more time."""
    label_smoothing: ShareBelow1 = 0.0
    """Share of each code's target in training that is spread over all codes (0: the paper)."""
    z_loss: Weight = 0.0
    """Weight in training of the squared logarithm of each softmax's denominator, which keeps logits
    from drifting (0: the paper)."""
    text_drop: ShareBelow1 = 0.0
    """Share of captions left out in training, which guidance in sampling needs (0: the paper)."""

    @property
    def stream(self) -> Stream:
        """The layout of the model's stream."""
        return Stream(self.text_length, self.rows, self.columns)

    @property
    def patterns(self) -> list[str]:
        """The pattern of each layer by name: `layers`, or the paper's order where it is empty."""
        return list(self.layers) or paper_layers(self.depth)

    def least_size(self) -> LeastSize:
        """Return the model's least size. Of masks there is one for each pattern in use."""
        stream, d_model = self.stream, self.d_model
        block = 4 * d_model * self.heads * self.head_width + 8 * d_model**2
        logits = self.text_length * self.text_vocab + stream.image_length * self.image_vocab
        return LeastSize(
            self.depth * block + 2 * (self.text_vocab + self.image_vocab) * d_model,
            self.depth * stream.length * d_model + logits,
            len(set(self.patterns)) * stream.length**2,
        )

    def validate(self) -> None:
        """Raise `UserError` for the first choice, or pair of values, that makes no model."""
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

    candidates: Candidates = 1
    """Candidates of each caption."""
    seed: SampleSeed | tuple[SampleSeed, ...] = 0
    """One for all captions, or one for each."""
    first: FirstCandidate = 0
    """Number of the first candidate."""
    temperature: Temperature = 1.0
    """Divides the logits; below 1 the likely codes become likelier."""
    top_k: From0 = 0
    """Sample from the k likeliest codes; 0: from all."""
    top_p: TopP = 1.0
    """Sample from the fewest likeliest codes that together have this probability; 1: from all."""
    guidance_scale: Weight = 1.0
    """Above 1 follows the caption more closely (classifier-free guidance)."""
    batch_size: Candidates = 64
    """Candidates decoded at a time."""
    likelihood_weight: Weight = 0.0
    """What a nat of a candidate's log-likelihood adds to its score by the reranker (0: the paper).
    """

    def __post_init__(self) -> None:
        """Raise `UserError` for the first value that makes no sense."""
        check_bounds(self)


@dataclass
class SamplingDefaults:
    """How a model is sampled from where nothing else is asked for: the part of `Sampling` that a
    model's folder keeps. Chosen by measurement (`python -m experiments.choose_sampling`)."""

    temperature: Temperature = 1.0
    """Divides the logits; 1 is the paper's."""
    top_k: From0 = 0
    """Sample from the k likeliest codes; 0: from all."""
    top_p: TopP = 1.0
    """Sample from the fewest likeliest codes that together have this probability; 1: from all."""
    guidance_scale: Weight = 1.0
    """Classifier-free guidance; 1: none, the paper's."""
    likelihood_weight: Weight = 0.0
    """What a nat of log-likelihood adds to the reranker's score; 0: nothing, the paper's."""

    def sampling(self, **options: Any) -> Sampling:
        """Return these as `Sampling`, with further `options` or others in their place."""
        return Sampling(**{**asdict(self), **options})


CODES_MODES = ("on_the_fly", "cached")


@dataclass
class CodesConfig:
    """Where the image codes of a training batch come from."""

    mode: str = "on_the_fly"
    """on_the_fly (encode each batch's augmented images, the paper) or cached (encode once)."""
    variants: Annotated[int, Bounds(1, 4096)] = 8
    """Augmented encodings kept of each image, where cached."""
    augmented_share: Share = 1.0
    """Share of the examples that show an augmented encoding, where cached; the others show the
    image as it is."""
    augmented_updates: From0 = 0
    """Updates after which no example is augmented any more, where cached; 0: it never ends."""
    file: Free[str] = ""
    """Where they are kept; empty: in the run's folder."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.mode not in CODES_MODES:
            raise UserError(f"codes.mode is {self.mode!r}; use one of {', '.join(CODES_MODES)}")
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
