"""One training run: the recipe it follows, and the loop that follows it."""
