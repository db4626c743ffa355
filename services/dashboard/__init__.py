"""The dashboard: NiceGUI pages. It reaches Kiln through the REST API only, with the Python client."""
