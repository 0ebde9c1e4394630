"""What the site shows differently from the files: marks of command blocks, and links to files."""

import re
from typing import Any

_MARK = re.compile(r"^<!--\s*(not run|run by|ends with):?\s*(.*?)\s*-->\n", re.MULTILINE)
_SAYS = {
    "not run": "*Not run by the tests: {}.*",
    "run by": "*Run by `{}`.*",
    "ends with": "*Ends with exit code 2 and the words* `{}`",
}
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show why a block is not run, and name files outside of the site instead of linking them."""
    shown = _MARK.sub(lambda mark: _SAYS[mark[1]].format(mark[2]) + "\n\n", markdown)
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2].removeprefix('../')}`)", shown)
