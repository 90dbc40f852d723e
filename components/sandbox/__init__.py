"""Run programs that a language model wrote, always in a sandbox."""
