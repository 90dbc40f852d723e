"""Stores in a folder or in S3, behind one interface; values in one file."""
