"""Trainings of recipes with several seeds, as subprocesses or on SLURM, and their scores."""
