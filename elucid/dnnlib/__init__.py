"""Tools that know nothing of tensors: configuration, files, errors, command lines."""
