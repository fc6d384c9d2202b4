"""Train a diffusion model: `train.py --outdir=runs --data=images.zip --cond=1`."""

from elucid.commands.train import run

if __name__ == "__main__":
    run()
