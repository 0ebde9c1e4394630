"""Looking at data, predictions and many runs."""
