"""Count parameters and floating point operations of a config's network for one image.

The same as ``nlseg flops``.
"""

import sys

from nlseg.commands.flops import main

if __name__ == "__main__":
    sys.exit(main())
