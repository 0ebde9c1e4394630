"""``python -m nlseg``: the command ``nlseg``."""

import sys

from nlseg.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
