"""A web page for a text-to-image model: draw, complete, classify and search in a browser."""
