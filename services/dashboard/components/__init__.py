"""Parts of pages that show data of the API: job rows, job actions, the job form, curves, samples, image details."""
