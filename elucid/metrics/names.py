"""Short names of detectors; others are given as `module:Name` or `file.py:Name`."""

DETECTORS = {
    "inception": "elucid.metrics.inception:InceptionDetector",
    "random": "elucid.metrics.random_features:RandomDetector",
}
