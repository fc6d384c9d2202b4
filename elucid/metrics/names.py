"""Short names of detectors; others are given as `module:Name` or `file.py:Name`."""

DETECTORS = {
    "inception": "elucid.metrics.inception:InceptionDetector",
    "dinov2": "elucid.metrics.pretrained:DinoDetector",
    "efflite0": "elucid.metrics.pretrained:EfficientNetLiteDetector",
    "efflite0_96": "elucid.metrics.pretrained:SmallEfficientNetLiteDetector",
    "squeezenet": "elucid.metrics.pretrained:SqueezeNetDetector",
    "random": "elucid.metrics.random_features:RandomDetector",
}
