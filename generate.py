"""Sample images from a snapshot: `python generate.py --network=SNAPSHOT --outdir=out --seeds=0-63`."""

from elucid.commands.generate import run

if __name__ == "__main__":
    run()
