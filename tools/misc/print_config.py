"""Print a resolved config with the file and line that wrote each value.

The same as ``nlseg config``.
"""

import sys

from nlseg.commands.config import main

if __name__ == "__main__":
    sys.exit(main())
