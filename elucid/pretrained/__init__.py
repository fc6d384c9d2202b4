"""Networks trained on natural images, with weights from installed packages, a file or a download."""
