"""Draw scores and losses of one or several runs over their iterations.

The same as ``nlseg analyze-logs``.
"""

import sys

from nlseg.commands.analyze_logs import main

if __name__ == "__main__":
    sys.exit(main())
