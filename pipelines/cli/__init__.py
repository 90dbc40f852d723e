"""The command line `quantgate`: one file a group of commands."""
