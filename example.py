"""The shortest complete sampling program: a snapshot in, an 8x8 grid of images out."""

from elucid.commands.example import run

if __name__ == "__main__":
    run()
