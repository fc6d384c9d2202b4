"""Choices of the discrete process, apart so that command lines can list them without torch."""

BETA_SCHEDULES = ("linear", "cosine")
"""Betas of the forward process (`noise.discrete.betas`)."""

VARIANCES = ("small", "large", "learned")
"""Variances of an ancestral step: beta-tilde, beta (Ho et al. 2020, section 3.2), or the network's."""
