"""Models whose published scores can be checked, and the receipts of scores that were measured."""
