"""Train a network that a config file describes.

The same as ``nlseg train``.
"""

import sys

from nlseg.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
