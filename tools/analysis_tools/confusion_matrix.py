"""Draw which classes are taken for which, and write the counts as a table.

The same as ``nlseg confusion``.
"""

import sys

from nlseg.commands.confusion import main

if __name__ == "__main__":
    sys.exit(main())
