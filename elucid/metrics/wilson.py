"""The confidence interval of a share."""


def interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction measured on `num` images (Wilson 1927)."""
    from scipy.stats import binomtest  # here, as it takes half a second that no other score should wait for

    limits = binomtest(round(share * num), num).proportion_ci(0.95, method="wilson")
    return float(limits.low), float(limits.high)
