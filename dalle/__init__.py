"""Stage two: a transformer over one stream of text tokens and image codes (paper section 2.2).

One legend for every shape in this package: B batch, N candidates, T text length, R rows,
C columns, H heads, D head width, K codebook size.
"""
