"""Building blocks that know nothing of Kiln: HTML elements, form fields, dialogs, charts, image grids."""
