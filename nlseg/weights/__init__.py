"""Weights from elsewhere: fetched, read without running code, fitted to a model."""
