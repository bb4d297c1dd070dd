"""What the three models share: from bottom to top common, data, training, published, evaluation."""
