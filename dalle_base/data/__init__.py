"""What a model is fed: sources, captions, text tokens, augmented images, batches."""
