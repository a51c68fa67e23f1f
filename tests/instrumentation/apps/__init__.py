"""Applications as the tutorials of their frameworks have them; none knows that this library exists."""
