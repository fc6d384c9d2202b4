"""Reads public state dicts of DiT, SiT, JiT, REPA, LightningDiT and DDT."""
