"""In the image of a code location: puts your project in, and serves its definitions."""
