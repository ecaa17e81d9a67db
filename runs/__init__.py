"""A run of a program: options and errors, files and checkpoints, the recorder, the device, tables."""
