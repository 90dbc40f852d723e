"""Models: their sources, digest, layers and variants."""
