"""Which images a model never trains on, decided by a stable hash of their names."""

import hashlib
from collections.abc import Container, Iterable, Mapping

TRAIN = "train"
HELD_OUT_PAIRS = "held_out_pairs"
HELD_OUT_CONCEPTS = "held_out_concepts"
SPLITS = (TRAIN, HELD_OUT_PAIRS, HELD_OUT_CONCEPTS)

CONCEPT_SHARE = 0.03
PAIR_SHARE = 0.05
OTHERS_IN_TRAIN = 2


def split_pairs(
    pairs: Iterable[tuple[str, str]],
    twins: Container[tuple[str, str]] = (),
    decided: Mapping[str, bool] | None = None,
    elsewhere: Mapping[str, int] | None = None,
) -> dict[tuple[str, str], str]:
    """The split of each (concept, artist) pair, whatever order they come in.

    A held-out concept is held out with all its images. A pair is held out by itself only where
    at least two other artists' images of the concept stay in train, so that what is asked for
    is a new combination of two known things. `twins` are pairs whose very drawing stands for
    another concept as well (the flags of Norway and of Svalbard): they stay in train, where their
    twins may be. `decided` says of some concepts whether they are held out, whatever their hash;
    `elsewhere` how many more artists' images of a concept are in the train of another corpus.
    """
    decided, elsewhere = decided or {}, elsewhere or {}
    artists: dict[str, list[str]] = {}
    for concept, artist in pairs:
        artists.setdefault(concept, []).append(artist)

    splits = {}
    for concept, drawn_by in artists.items():
        has_twin = any((concept, artist) in twins for artist in drawn_by)
        held_out = decided.get(concept, fraction(concept) < CONCEPT_SHARE)
        if held_out and not has_twin:
            splits.update({(concept, artist): HELD_OUT_CONCEPTS for artist in drawn_by})
            continue
        in_train = len(drawn_by) + elsewhere.get(concept, 0)
        for artist in sorted(drawn_by, key=lambda artist: fraction(f"{concept}/{artist}")):
            held_out = (
                fraction(f"{concept}/{artist}") < PAIR_SHARE
                and in_train - 1 >= OTHERS_IN_TRAIN
                and (concept, artist) not in twins
            )
            in_train -= held_out
            splits[concept, artist] = HELD_OUT_PAIRS if held_out else TRAIN
    return splits


def fraction(name: str) -> float:
    """A number in [0, 1) that is the same for a name on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
