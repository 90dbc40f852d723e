"""The step `quantize`: make a variant's weights with llm-compressor."""
