"""Show samples of a config's data set, by mmsegmentation's path.

The same as ``nlseg browse``.
"""

import sys

from nlseg.commands.browse import main

if __name__ == "__main__":
    sys.exit(main())
