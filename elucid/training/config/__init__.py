"""Configuration: presets, flags, options, building of components, run folders."""
