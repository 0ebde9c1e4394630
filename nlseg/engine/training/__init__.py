"""What happens in training: loops, steps, loaders, precision, compilation, bad numbers."""
