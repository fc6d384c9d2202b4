"""Arrays of any number of channels in the place of pictures: fields, slices, spectra."""
