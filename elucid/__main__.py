"""`python -m elucid train ...`: the same as the console command `elucid`."""

from elucid.start import main

if __name__ == "__main__":
    main()
