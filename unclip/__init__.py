"""DALL-E 2 in small (unCLIP, arXiv 2204.06125): a caption's image embedding, and an image of it."""
