"""`make fuzz`: fuzz the gateway for a while from the corpus, and say what was found.

With `--keep` the corpus is minimised and written anew. What breaks is left in the folder that is named at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.minimise import minimise
from tests.fuzz.seeds import seeds

ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 3000


def _fuzz(*arguments: str) -> tuple[int, str]:
    """Run libFuzzer; returns its code and what it said."""
    argv = [sys.executable, "-m", "tests.fuzz.child", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--keep", action="store_true", help="minimise the corpus and write it anew")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/var/tmp"))
    corpus.unpack(corpus.read() + seeds(), folder / "corpus")
    common = (f"-max_len={_LONGEST}", "-timeout=20", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/")
    code, said = _fuzz(
        str(folder / "corpus"),
        *common,
        f"-max_total_time={given.seconds}",
        "-print_final_stats=1",
        "-use_value_profile=1",
    )
    lines = said.splitlines()
    print("\n".join(line for line in lines if re.search(r"stat::|DONE|ERROR|Broken|Error", line)))
    if code:
        print("\n".join(lines[-40:]), f"\nwhat broke it: {[str(path) for path in folder.glob('*-*')]}")
        return 1
    if given.keep:
        corpus.write(minimise(corpus.pack(folder / "corpus")))
        print(f"{len(corpus.read())} inputs, {corpus.FILE.stat().st_size} bytes")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
