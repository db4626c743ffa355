"""The parts that pages are made of: HTML elements, charts, image grids, rows of jobs, the form of a new job."""
