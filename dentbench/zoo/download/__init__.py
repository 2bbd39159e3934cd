"""Files from elsewhere: where from, moved, verified and cached."""
