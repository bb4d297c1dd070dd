"""Figures of sampled images: metrics, intervals, feature networks."""
