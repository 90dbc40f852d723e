"""The step `quantize`: a variant's weights, made with llm-compressor."""
