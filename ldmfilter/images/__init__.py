"""Self-supervised objectives on pairs of images, as latent distribution matching."""
