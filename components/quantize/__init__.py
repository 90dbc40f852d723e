"""The step `quantize`: make a variant's weights with llm-compressor.

quantization                    a variant from the store, or made
recipe                          what llm-compressor applies for a variant
compress                        the program that runs llm-compressor
memory_needed                   the memory that llm-compressor needs, before it starts
written                         what a checkpoint says of itself
rotation                        what SpinQuant's rotations change, and in which models
check                           its checkpoint, before it is served
"""
