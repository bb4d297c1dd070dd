"""VQGAN (arXiv 2012.09841): convolutional networks around a quantiser of vectors."""
