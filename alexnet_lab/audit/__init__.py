"""What a dataset hides: copies, patients on two sides, classes that can be told without the picture."""
