"""The other end of `places.run_call`: a program that calls one function and prints its result.

Run as a file, isolated: the directory of the checkout, the module, the function and the arguments,
as JSON, are its own arguments.
"""

from __future__ import annotations

import importlib
import json
import sys

if __name__ == "__main__":
    _, root, module, name, arguments = sys.argv
    sys.path.insert(0, root)
    result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    print(json.dumps(result))
