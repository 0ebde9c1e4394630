"""mmsegmentation's path of class activation maps; says what to call in its place."""

import sys

INSTEAD = (
    "call 'nlseg attend CONFIG CHECKPOINT IMAGE --at Y,X --out attention.png', which draws the "
    "attention of the network's own block; class activation maps are not here"
)

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{__doc__}\n{INSTEAD}")
    else:
        sys.exit(f"{sys.argv[0]}: {INSTEAD}")
