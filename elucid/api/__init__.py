"""The Python API behind `import elucid` and the command line, independent of click."""
