"""Real emoji art with its names: seven artists' drawings of the same concepts, as parquet.

`python -m corpora.emoji --out data/emoji` fetches the packages with npm and writes the corpus.
Because several artists drew the same concept, whole (concept, artist) pairs can be held out: a
model that has seen a snail by others and other things by this artist must put the two together.
"""
