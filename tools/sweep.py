"""Train one config with several values, several times each, and compare the scores.

The same as ``nlseg sweep``.
"""

import sys

from nlseg.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
