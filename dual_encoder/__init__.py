"""The dual encoder (CLIP): images and captions in one space, to rank, classify and search."""
