"""Make a data set of any folder, archive or well-known file, or verify one."""

from elucid.start import start

if __name__ == "__main__":
    start("dataset_tool")
