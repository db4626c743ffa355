"""Building blocks that are independent of Kiln: HTML elements, form fields, dialogs, charts, image grids."""
