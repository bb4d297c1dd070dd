"""The dual encoder (CLIP): pictures and captions in one space, to rank, classify and search."""
