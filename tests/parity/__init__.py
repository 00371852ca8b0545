"""The fast store and MLflow's own answer alike: `python -m tests.parity` sends random sequences of calls to both.

* `sequences`: random sequences of operations, each from its number alone.
* `wire`: sends an operation to a server, over a connection that is kept open.
* `servers`: the two servers and their databases.
* `masks`: what must differ (ids, clocks, random names) replaced by what it stands for.
* `tables`: what the databases hold.
* `comparison`: runs sequences on both servers, tells the first difference, and makes the sequence smaller.
"""

import sys
from pathlib import Path

_INTEGRATION = str(Path(__file__).resolve().parent.parent / "integration")
if _INTEGRATION not in sys.path:  # for their `server_process` and `server_parts`
    sys.path.insert(0, _INTEGRATION)
