"""Show samples of a config's data set: as they are stored, and as the network gets them.

The same as ``nlseg browse``.
"""

import sys

from nlseg.commands.browse import main

if __name__ == "__main__":
    sys.exit(main())
