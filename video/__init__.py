"""Images into the video's shape and latent, and a latent into an MP4 file."""
