"""Looking inside a network while it learns: what is measured, when, and where it is written down."""
