"""Maths: pure tensor functions and blocks, without files, configs or runs."""
