"""A run without algorithm and pictures: options, files, recorder, device, tables."""
