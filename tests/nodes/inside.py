"""Become a process of a node, then the given command; needs nothing but Python.

python -m tests.nodes.inside NAMESPACE NAME HOSTS [SOURCE=TARGET ...] -- COMMAND ...
"""

import os
import sys
from pathlib import Path

from tests.nodes.cluster import Node


def main() -> None:
    namespace, name, hosts, *rest = sys.argv[1:]
    cut = rest.index("--")
    node = Node(int(name.removeprefix("node")), Path(hosts).parent)
    node.namespace = namespace
    for mount in rest[:cut]:
        source, _, target = mount.partition("=")
        node.mount(Path(source), Path(target))
    folder = Path.cwd()
    node.enter()
    os.chdir(folder)
    command = rest[cut + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
