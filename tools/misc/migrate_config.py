"""Rewrite a config of mmsegmentation 0.x into the present form.

The same as ``nlseg migrate``.
"""

import sys

from nlseg.commands.migrate import main

if __name__ == "__main__":
    sys.exit(main())
