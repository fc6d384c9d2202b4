"""Power spectra of images and arrays, their distance, and how channels belong together."""
