"""mmsegmentation's path of a benchmark of one network; says what to call in its place."""

import sys

INSTEAD = (
    "call 'nlseg plan CONFIG' for memory, operations and time of a training, 'nlseg predict CONFIG "
    "CHECKPOINT IMAGES --out DIR', which prints images/s, or 'python tools/benchmark.py inference'"
)

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\n{INSTEAD}")
    else:
        sys.exit(f"{sys.argv[0]}: {INSTEAD}")
