"""The hosted API on one's own machine: jobs, images, results, webhooks and routes. Imports no torch."""
