"""The dimensions of a Wan transformer, and the work that follows from them."""

from __future__ import annotations

from typing import NamedTuple

# Wan2.2 wan/configs/shared_config.py: text_len = 512; shorter prompts are padded to it.
TEXT_TOKENS = 512


class WanShape(NamedTuple):
    """The dimensions of a Wan transformer; ``text_dim`` is the width of the text encoder's embeddings."""

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int
    out_channels: int
    text_dim: int

    @property
    def image_channels(self) -> int:
        """Input channels beyond the latent's own: 0 is text-to-video, 20 Wan 2.2 image-to-video (4 mask, 16 image)."""
        return self.in_channels - self.out_channels

    def forward_tflop(self, tokens: int) -> float:
        """Return the 10^12 operations of one pass over ``tokens``, counting a multiplication and an addition as two.

        Per layer (Wan2.2 wan/modules/model.py): q, k, v and o of the self-attention and q and o of the cross-attention
        are 6 products of 2*N*d*d; attention over the tokens is 4*N*N*d and over the text 4*N*L*d; k and v of the text
        are 4*L*d*d; the feed-forward part is 4*N*d*f. What lies outside the layers is less than 0.1 % at real sizes.
        """
        n, d, length = tokens, self.dim, TEXT_TOKENS
        attention = 12 * n * d**2 + 4 * n**2 * d + 4 * n * length * d + 4 * length * d**2
        return self.layers * (attention + 4 * n * d * self.ffn_dim) / 1e12


# Wan2.2 wan/configs/wan_i2v_A14B.py: dim, ffn_dim, num_layers; 16 latent channels, 4 mask, 16 image. The text encoder
# UMT5-XXL is 4096 wide.
WAN_14B = WanShape(dim=5120, ffn_dim=13824, layers=40, in_channels=36, out_channels=16, text_dim=4096)
