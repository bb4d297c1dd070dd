"""Images found by moving a tokenizer's latents until a dual encoder likes them (VQGAN+CLIP)."""
