"""Convert snapshots to files of other programs and back."""

from elucid.start import start

if __name__ == "__main__":
    start("export")
