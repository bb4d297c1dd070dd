"""Stage one: images <-> grids of codes (paper, section 2.1 and appendix A)."""
