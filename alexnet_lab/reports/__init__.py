"""What was recorded, as pages, figures and tables."""
