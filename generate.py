"""Sample images from a snapshot: `python generate.py --network=SNAPSHOT --outdir=out --seeds=0-63`."""

from elucid.start import start

if __name__ == "__main__":
    start("generate")
