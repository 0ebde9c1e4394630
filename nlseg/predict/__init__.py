"""From pictures to labelled pictures: images, folders, videos and large rasters through a network.

sources    what was asked for -> a list of images, videos and rasters, each with a name
outputs    one label map -> overlay, mask, probabilities, polygons; each file whole or absent
records    what was done with each file, and the summary
labeller   decoding, network and writing overlap
video      frames in, frames out
raster     images that do not fit in memory, window by window
"""
