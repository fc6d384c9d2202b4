"""Trainings of recipes and the verdict on their difference."""
