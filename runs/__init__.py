"""Everything of a run but algorithm and pictures: options, files, recorder, device, tables."""
