"""Parts of pages that show data from the API: job rows, job actions, the job form, curves, samples, image details."""
