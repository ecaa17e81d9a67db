"""What a trained generator is worth: the parts of evaluate.py, one job a file."""
