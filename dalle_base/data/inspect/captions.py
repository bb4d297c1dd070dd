"""What a run will see of captions."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from dalle_base.common.report import shown
from dalle_base.data.caption_lengths import MOST, caption_lengths, quantiles, spread
from dalle_base.data.inspect.reading import Reading
from dalle_base.data.sources.base import Record, Source, captioned
from dalle_base.data.text import TextTokenizer

NAMED = 3
"""Examples that a line names."""
SHARES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
LONG = 60
"""Characters of a caption that a line shows."""


def caption_report(train: Source, held_out: Source, reading: Reading) -> Iterator[str]:
    """Yield lines on captions; one alone for a script that reads none.

    Raises `UserError` as a run would where none of the images has one.
    """
    records, total = spread(train)
    captions = [each for record in records for each in record.captions]
    empty = sum(not "".join(record.captions).strip() for record in records)
    of = f"{len(records)} training images" + ("" if len(records) == total else " looked at")
    if reading.text_length == 0:
        yield f"captions: {len(records) - empty} of {of} have one; this run reads none"
        return
    train = captioned(train)
    yield f"captions: {empty} of {of} have none and are left out"
    yield from _several(records)
    yield from _lengths(train, reading)
    yield from _repeated(captions)
    yield from _characters(captions, held_out)


def _several(records: Sequence[Record]) -> Iterator[str]:
    counts = [len(record.captions) for record in records]
    more = sum(count > 1 for count in counts)
    if more:
        yield f"several captions: {more} images have more than one, up to {max(counts)}"


def _lengths(train: Source, reading: Reading) -> Iterator[str]:
    text_tokenizer = _text_tokenizer(train, reading)
    lengths = caption_lengths(train, text_tokenizer)
    values = zip(SHARES, quantiles(lengths.tokens, list(SHARES.values())), strict=True)
    yield "tokens of a caption: " + ", ".join(f"{name} {value}" for name, value in values)
    yield lengths.line(reading.text_length, reading.length_key, reading.length_extra)
    origin = reading.text_file or "learned from these captions"
    yield f"text encoding: {text_tokenizer.vocab_size} tokens ({origin})"


def _text_tokenizer(train: Source, reading: Reading) -> TextTokenizer:
    if reading.text_file:
        return TextTokenizer.load(reading.text_file)
    from dalle_base.data.text_training import learn_text

    sample = getattr(train, "sample", None)
    return learn_text(sample() if sample else train, reading.vocabulary)


def _repeated(captions: Sequence[str]) -> Iterator[str]:
    """Captions that several images share, case and white space apart."""
    counts = Counter(" ".join(each.lower().split()) for each in captions if each.strip())
    repeated = [(text, count) for text, count in counts.most_common() if count > 1]
    if repeated:
        named = ", ".join(f'"{_short(text)}" {count} times' for text, count in repeated[:NAMED])
        inside = sum(count for _, count in repeated)
        yield f"repeated captions: {inside} of {len(captions)} are not the only ones ({named})"


def _characters(captions: Sequence[str], held_out: Source) -> Iterator[str]:
    """Characters that nobody sees, and those of held-out captions that training never shows."""
    odd = Counter(c for caption in captions for c in set(caption) if _is_odd(c))
    if odd:
        named = ", ".join(f"{_code(c)} in {count}" for c, count in odd.most_common(NAMED))
        first = next(each for each in captions if any(map(_is_odd, each)))
        yield (
            f"characters that cannot be printed: {len(odd)} kinds ({named} captions), the first in "
            f'"{_short(shown(first))}"'
        )
    known = {c for caption in captions for c in caption.lower()}
    others = [each for record in spread(held_out, MOST)[0] for each in record.captions]
    new = Counter(c for caption in others for c in set(caption.lower()) - known)
    if new:
        named = ", ".join(f"{shown(c)} ({_code(c)})" for c, _ in new.most_common(NAMED))
        count = sum(bool(set(caption.lower()) - known) for caption in others)
        yield f"characters only in held-out captions: {named}, in {count} of {len(others)}"


def _is_odd(character: str) -> bool:
    """Whether a character has no look of its own: control characters, halves, the replacement."""
    if character in "\t\n\r\u200c\u200d\ufe0f":  # white space, and what emoji and scripts join by
        return False
    return character == "\ufffd" or unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Cs",
    )


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _short(text: str) -> str:
    return text if len(text) <= LONG else text[: LONG - 3] + "..."
