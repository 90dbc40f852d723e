"""Run programs that a language model wrote, never in the open."""
