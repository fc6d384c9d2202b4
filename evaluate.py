"""Evaluate models: bits per dimension of images."""

from elucid.start import start

if __name__ == "__main__":
    start("evaluate")
