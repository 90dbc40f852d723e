"""The step `quantize`: make a variant's weights with llm-compressor.

quantization                    a variant from the store, or made
compress                        the program that runs llm-compressor
check                           its checkpoint, before it is served
"""
