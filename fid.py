"""Score images: Fréchet distance to a reference (FID), the reference itself, and class agreement by an SVC."""

from elucid.start import start

if __name__ == "__main__":
    start("fid")
