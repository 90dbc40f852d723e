"""The step `quantize`: make a variant's weights with llm-compressor.

quantization                    a variant from the store, or made
recipe                          what llm-compressor applies for a variant
sensitive                       which layers of a mixed variant get 8 bits
loading                         a model as llm-compressor can quantize it
compress                        the program that runs llm-compressor
ranks                           which variants several GPUs quantize, and how
process_group                   what the program does as one of several processes
log_progress                    how far llm-compressor is, by its log
memory_needed                   the memory that llm-compressor needs, before it starts
written                         what a checkpoint says of itself
tensors                         the tensors of a checkpoint, each expert's apart
packed                          the numbers in its packed weights
rotation                        what SpinQuant's rotations change, and in which models
check                           its checkpoint, before it is served
"""
