"""Topics by our own words: what is read from and written to them, whichever program keeps them."""
