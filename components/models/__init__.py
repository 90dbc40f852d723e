"""Models: where they come from, their digest, their layers, and the variants of one."""
