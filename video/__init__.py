"""Images into the video's shape and latent, and a latent into a video file."""
