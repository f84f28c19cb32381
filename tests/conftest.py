"""What all tests share."""

import os

# Tests that run side by side have a core each, and so has every process that they start. What asks for more threads
# all the same does not keep a core busy by waiting for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
