"""Test a network that a config file describes with the weights of a checkpoint.

The same as ``nlseg test``.
"""

import sys

from nlseg.commands.test import main

if __name__ == "__main__":
    sys.exit(main())
