"""Runs Xen's verify-stream-v2, whose path is the argument, on many streams in one process.

Standard input holds for each stream a line `FORMAT LENGTH` and then LENGTH bytes. Standard output
gets for each stream a line with the exit status that the checker would have had and the last line
of what it printed.
"""

import importlib.machinery
import importlib.util
import io
import sys

loader = importlib.machinery.SourceFileLoader("checker", sys.argv[1])
checker = importlib.util.module_from_spec(importlib.util.spec_from_loader("checker", loader))
loader.exec_module(checker)

while True:
    request = sys.stdin.buffer.readline().split()
    if not request:
        break
    said = []
    checker.err = said.append
    checker.fin = io.BytesIO(sys.stdin.buffer.read(int(request[1])))
    status = checker.read_stream(request[0].decode())
    lines = "\n".join(said).strip().splitlines()
    # The last line may be a fixed request to the user; the line before it then has the exception.
    told = [line for line in lines if line and line != "Please fix me"]
    print(status, told[-1] if told else "", flush=True)
