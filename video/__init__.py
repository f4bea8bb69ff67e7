"""Frames and files. Only ``clip_writer``, ``frames`` and ``wan_vae*`` touch the host."""
