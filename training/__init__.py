"""What the training scripts share: configs, data, the loop's bookkeeping, checkpoints, schedules."""
