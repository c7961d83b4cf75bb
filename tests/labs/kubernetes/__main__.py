"""`python -m tests.labs.kubernetes build [node]` builds the lab's programs and says where they lie."""

from __future__ import annotations

import sys

from tests.labs.kubernetes.build import CannotBuild, build, build_node


def main(argv: list[str]) -> int:
    if argv not in (["build"], ["build", "node"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(build())
        if "node" in argv:
            print(*sorted({path.parent for path in build_node().values()}), sep="\n")
    except CannotBuild as error:
        print(f"The Kubernetes lab was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
