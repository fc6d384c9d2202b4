"""Names that command lines check before torch is imported."""

NETS = ("resnet50", "resnet18", "small")
SETS = ("real", "synthetic", "both")
