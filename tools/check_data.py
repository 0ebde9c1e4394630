"""Look through the data sets of a config and say what is wrong with them.

The same as ``nlseg check-data``.
"""

import sys

from nlseg.commands.check_data import main

if __name__ == "__main__":
    sys.exit(main())
