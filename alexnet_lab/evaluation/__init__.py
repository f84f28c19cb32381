"""What a trained network says: a finished run, and its predictions for new images."""
