"""Emoji of one colour, drawn in other colours: "a blue car", "purple apple, noto style".

`python -m corpora.recoloured --out data/recoloured` reads the emoji corpus and writes what can be
recoloured of it, in train and in held-out combinations of thing and colour, to be mixed with it.
"""
