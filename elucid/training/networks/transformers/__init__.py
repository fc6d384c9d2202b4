"""Diffusion transformers: blocks, embeddings, and the networks made of them."""
