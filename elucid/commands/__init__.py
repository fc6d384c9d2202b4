"""The command lines: one file per script. A script at the top of the repository only calls its command."""
