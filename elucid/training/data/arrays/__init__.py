"""Arrays of any number of channels in the place of pictures: fields, slices, spectra; many in one file, or one each."""
