"""Training a StyleGAN2 against a discriminator projected on the frozen face network (Sauer et al. 2021)."""
