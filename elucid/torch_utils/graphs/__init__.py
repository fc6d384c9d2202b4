"""Calls of networks as graphs, which the host starts as a whole."""
