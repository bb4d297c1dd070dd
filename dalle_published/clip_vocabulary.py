"""CLIP's own text encoding, from its vocabulary file `bpe_simple_vocab_16e6.txt.gz`."""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dalle_base.common.errors import UserError
from dalle_base.data.text import TextTokenizer

FILE = "bpe_simple_vocab_16e6.txt.gz"
PACKAGES = ("open_clip", "clip")
"""Packages that have the file; they are looked for, never imported."""
MERGES = 48_894
"""Merges that CLIP uses of the file's."""
WORD_END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
STRAIGHT = {"[\u02bc\u2018-\u201b]": "'", "[\u201c-\u201f]": '"'}
LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "ſt", "ﬆ": "st"}
LARGEST = 2**24  # the file has 3 MB; a packed one may claim any size


def find_vocabulary() -> Path:
    """Return the file of an installed package. Raises `UserError` if none has it."""
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / FILE).is_file():
                return Path(folder) / FILE
    raise UserError(
        f"CLIP's vocabulary {FILE} is not here: write --vocabulary FILE, or install "
        "open_clip_torch, which has it"
    )


def clip_text(path: Path) -> TextTokenizer:
    """Build CLIP's encoding of 49,406 tokens from its file. Raises `UserError`.

    Captions get the ids of CLIP's `SimpleTokenizer`, without start and end. What that repairs
    first with `ftfy` and `html` is not: HTML entities, broken encodings, full-width letters.
    """
    merges = read_merges(path)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END)
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path} is not CLIP's {FILE}: {error}; download it again") from None
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            *(normalizers.Replace(Regex(curly), plain) for curly, plain in STRAIGHT.items()),
            *(normalizers.Replace(joined, apart) for joined, apart in LIGATURES.items()),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            # Python, and so CLIP, lower-cases a word's last sigma to another letter.
            normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(WORD_END, " "), decoders.Strip(" ", 0, 1)]
    )
    return TextTokenizer(tokenizer)


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Return the merges that CLIP uses, the first ones learned first. Raises `UserError`."""
    if not path.is_file():
        raise UserError(f"no vocabulary {path}; name CLIP's {FILE}")
    try:
        with gzip.open(path) as file:
            lines = file.read(LARGEST).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path} is not CLIP's {FILE}: {error}; download it again") from None
    pairs = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]  # the first line is a comment
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) < MERGES:
        raise UserError(f"{path} is not CLIP's {FILE}: it has fewer than {MERGES} merges")
    return merges


def byte_alphabet() -> list[str]:
    """Return a letter for each byte: those that print first, then the others, as CLIP orders them.

    The letters are those of `tokenizers`' byte level: a byte that does not print is written as a
    letter from 256 on.
    """
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printing += range(ord("®"), ord("ÿ") + 1)
    others = 256 - len(printing)
    return [chr(code) for code in (*printing, *range(256, 256 + others))]
