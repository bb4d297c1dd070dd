"""Errors, configs, checkpoints, images, devices: what every other room needs."""
