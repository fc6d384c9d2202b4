"""The shortest complete sampling program: a snapshot in, an 8x8 grid of images out."""

from elucid.start import start

if __name__ == "__main__":
    start("example")
