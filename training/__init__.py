"""What the training scripts share: configs, data, bookkeeping, checkpoints, schedules."""
