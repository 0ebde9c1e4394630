"""The data doctor: looks through a data set before anything is trained on it.

It lives on the wiring floor because it needs to know what only a config brings together: the
folders and label rules of every split, the number of classes of the network, the normalisation of
the preprocessor. The way of one check, a module each:

    splits   config -> what each split reads, and by which rules
    listing  folders -> pairs of files, and names without a partner
    probe    one file -> facts that no config can change, taken in worker processes
    survey   all files -> facts, by several processes, kept by size and modification time
    tally    facts and rules -> counts per class, stray values, sizes, channel statistics
    causes   tally -> what is wrong, by the name of its cause, with the line that mends it
    report   everything -> terminal, JSON, and the page that nlseg.visualization draws
    quick    a few labels of a built data set, at the start of training
"""
