"""What all tests share."""

import os

# Tests that run side by side have a core each, and so has every process that they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
