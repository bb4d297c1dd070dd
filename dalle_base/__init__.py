"""What the three models rest on, from the bottom up: common, data, training."""
