"""Train a diffusion model: `train.py --outdir=runs --data=images.zip --cond=1`."""

from elucid.start import start

if __name__ == "__main__":
    start("train")
