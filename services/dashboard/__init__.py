"""The dashboard: NiceGUI pages, a client of the REST API and of nothing else."""
