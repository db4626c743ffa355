"""Quality metrics of generated images, each with its measurement protocol."""
