"""Subcommands of evaluate.py for arrays of any channels, which apply to pictures, too."""
