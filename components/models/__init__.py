"""Models: where one comes from, its digest, layers and window, and the variants of it.

sources, hub, wheels            pypi:, file:, hf: and s3:
published                       what a source publishes now, with a fingerprint of its content
variants                        the variants, one row each
rungs                           the variants that an accelerator serves well, and the order of a search
recipe_file, own_checkpoint, gguf_file
                                variants by recipes, checkpoints and GGUF files of one's own
parts                           what every variant leaves as it is, and what experts are
layers                          the group size of each layer
window                          the rule for the window of a server; `resolve/prepared_prompts.py` applies it
content                         a model's own files, and what its configuration says about its weights
digest                          the digest that names a model everywhere, and the check of stored bytes
tokenizer_files                 what lies beside weights and configuration
"""
