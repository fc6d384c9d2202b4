"""The command line, one file per script. The scripts at the top of the repository only call these commands."""
