"""From a folder of images and masks to a config that says why.

A module each step, in this order:

    request   what a user asks for
    layout    folder -> pairs of image and mask
    lists     list files -> the splits that they give
    names     files that name classes, and their colours
    exports   pairs of a folder, or of an export of COCO, LabelMe or CVAT
    labels    values or colours of all masks -> classes, what is ignored
    parts     pairs -> training and test images; similar frames stay together
    facts     files -> numbers: sizes, shares, widths, levels
    choose    numbers -> choices, each with its reason; nothing is read or measured here
    machine   what a training step of the candidates takes on this machine
    writing   choices -> the config
    progress  what takes long is told
    planning  all of it
    readings  what an unclear folder may mean, and the options that say it
"""
