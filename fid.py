"""Score images: Fréchet distance to a reference (FID), the reference itself, and class agreement by an SVC."""

from elucid.commands.fid import run

if __name__ == "__main__":
    run()
