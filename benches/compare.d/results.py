"""Where do the tables go? Each script writes its own part of one file and leaves the others' as they are."""

import pathlib
import re
import sys


def put(out, script, text):
    """`out` is a file, or - for standard output."""
    if out == "-":
        return print(text, end="")
    file = pathlib.Path(out)
    begin, end = f"<!-- generated: ./benches/{script} -->", f"<!-- end: ./benches/{script} -->"
    part = f"{begin}\n\n{text}\n{end}\n"
    before = file.read_text() if file.exists() else ""
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    after, found = pattern.subn(lambda _: part, before)
    file.write_text(after if found else "\n".join(filter(None, [before, part])))
    print(f"written to {out}", file=sys.stderr)
