"""Exports of labelling tools, turned into label maps, images and a config."""
