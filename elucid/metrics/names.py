"""Short names of detectors; others are given as `module:Name` or `file.py:Name`."""

DETECTORS = {
    "inception": "elucid.metrics.inception:InceptionDetector",
    "dinov2": "elucid.metrics.pretrained.dinov2:DinoDetector",
    "efflite0": "elucid.metrics.pretrained.efficientnet_lite:EfficientNetLiteDetector",
    "efflite0_96": "elucid.metrics.pretrained.efficientnet_lite:SmallEfficientNetLiteDetector",
    "squeezenet": "elucid.metrics.pretrained.squeezenet:SqueezeNetDetector",
    "random": "elucid.metrics.random_features:RandomDetector",
}
