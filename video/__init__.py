"""Frames and files: sizes, fitting, the Wan VAE, encoding. Only ``frames`` and ``wan_vae*`` touch the host."""
