"""From a dataset to the device: the order of the images, batches loaded ahead, and all images on the device."""
