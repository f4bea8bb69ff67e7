"""Wan's own numbers, each with the official file that it comes from. Imports nothing."""

# Wan2.2 wan/configs/wan_i2v_A14B.py: boundary, a fraction of num_train_timesteps.
BOUNDARY_I2V = 0.900
# Wan2.2 wan/configs/shared_config.py: num_train_timesteps, sample_fps, text_len.
TRAIN_TIMESTEPS = 1000
TRAINED_FRAME_RATE = 16
TEXT_TOKENS = 512
# Wan2.2 wan/configs/shared_config.py: frame_num, 5 s at 16 frames per second.
TRAINED_FRAMES = 81
# Wan2.2 wan/configs/wan_i2v_A14B.py: vae_stride = (4, 8, 8), patch_size = (1, 2, 2).
FRAMES_PER_LATENT = 4
PIXELS_PER_LATENT = 8
PIXELS_PER_TOKEN = 16
# Wan2.1 wan/modules/vae.py: z_dim.
LATENT_CHANNELS = 16
