"""A folder or S3, behind one interface; and values that are one file."""
