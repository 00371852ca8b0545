"""Loaded by the compared servers at their start: ids that grow with time.

Random ids would break ties of an order differently on each server. These have the order in which they were made, so
the runs of one experiment, which are made one after another, have the same order on both servers.
"""

import itertools
import time
import uuid

_count = itertools.count()


def _uuid4() -> uuid.UUID:
    # unique in a process by the count; two processes do not serve one experiment in the same nanosecond
    return uuid.UUID(int=(0xA << 124) | (time.time_ns() << 32) | (next(_count) & 0xFFFFFFFF))


uuid.uuid4 = _uuid4
