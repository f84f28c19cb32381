"""Many runs: which to make, making them, and what they say together."""
