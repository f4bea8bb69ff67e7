"""Makes the demo's models from scratch: pictures, a Wan VAE, two Wan experts. The nodes never import it."""
