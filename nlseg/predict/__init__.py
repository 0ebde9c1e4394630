"""From pictures to labelled pictures: images, folders, videos and large rasters through a network.

sources    what was asked for -> a list of images, videos and rasters, each with a name
outputs    one label map -> overlay, mask, probabilities, polygons; each file whole or absent
labeller   decoding, network and writing overlap; records of what was done
video      frames in, frames out
raster     images that do not fit in memory, window by window
"""
