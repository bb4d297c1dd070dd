"""What a run that reads captions does first: its length, its text encoding, and what it cuts."""

from typing import TYPE_CHECKING, Any

from dalle_base.data.caption_lengths import caption_lengths
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TextTokenizer
from dalle_base.training.shares import fit_run

if TYPE_CHECKING:
    from dalle_base.training.run import Run


def begin_with_captions(
    run: "Run", source: Source, vocab_size: int, wanted: str, extra: int = 0
) -> TextTokenizer:
    """Fix a run's length by the data, and say how many captions are cut; return its text encoding.

    Args:
        run: whose config has `init` and `model.text_length`.
        source: of the captioned images that are trained on.
        vocab_size: most tokens of an encoding that is learned.
        wanted: kind of the model that `init` names.
        extra: text positions that are no tokens of the caption.

    Raises:
        UserError: `init` names no such model.
    """
    config: Any = run.config
    fit_run(run, source)
    text_tokenizer = run.text_tokenizer(source, vocab_size, run.init_folder(wanted))
    lengths = caption_lengths(source, text_tokenizer)
    run.write(lengths.line(config.model.text_length - extra, "model.text_length", extra))
    return text_tokenizer
