"""Both student reports, run again through the API."""
