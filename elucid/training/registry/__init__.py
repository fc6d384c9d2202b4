"""Registry of component names and interfaces."""
