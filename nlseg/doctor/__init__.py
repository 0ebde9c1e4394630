"""The data doctor: examines a data set before anything is trained on it.

It needs what only a config brings together: the folders and label rules of every split, the number
of classes of the network, the normalisation of the preprocessor. The steps of one check, a module
each:

    splits   config -> what each split reads, and by which rules
    listing  folders -> pairs of files, and names without a partner
    probe    one file -> facts that no config can change, taken in worker processes
    survey   all files -> facts, by several processes, kept by size and modification time
    tally    facts and rules -> counts per class, stray values, sizes, channel statistics
    causes   tally -> findings: files, labels and classes, each with the config line that fixes it
    report   everything -> terminal, JSON and a page
    hook     a few labels of a built data set, at the start of training
"""
