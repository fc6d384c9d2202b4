"""Measures of memorisation: are samples nearer to training images than new real images are?"""
