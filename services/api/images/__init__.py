"""From a request for images to an encoded response."""
