"""Where a network looks, and whether a map of that says more than one of random weights."""
