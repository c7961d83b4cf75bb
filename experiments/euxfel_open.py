"""Open runs with EXtra-data, which writes their file map. Executed by the image's interpreter, never imported.

Standard input: a JSON list of folders. Last line of standard output: a JSON object, folder to reason (empty: fine).
"""

import json
import sys


def reason(folder: str) -> str:
    from extra_data import RunDirectory

    try:
        run = RunDirectory(folder)
    except Exception as error:
        return f"EXtra-data cannot open this run: {error}"
    return "" if run.train_ids else "EXtra-data finds no trains in this run"


def main() -> None:
    print(json.dumps({folder: reason(folder) for folder in json.load(sys.stdin)}))


if __name__ == "__main__":
    main()
