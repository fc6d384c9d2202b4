"""Inverse problems: operators, measurements, and what several samples of a posterior say together."""
