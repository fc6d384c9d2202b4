"""Encoders between stored data and the network's images or latents."""
