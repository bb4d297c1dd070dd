"""Icons with their names: coloured sets, silhouettes in named colours, and a recoloured set.

`python -m corpora.icons --out data/icons` fetches a package of icons and a dictionary with npm and
writes the corpus. Its concepts are held out as the emoji corpus holds them out, so that the two can
be mixed.
"""
