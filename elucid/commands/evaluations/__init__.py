"""The subcommands of evaluate.py, one module each, with a `command`."""
