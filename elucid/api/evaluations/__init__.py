"""Evaluations of models that need more than the features of their images; one module for each command."""
