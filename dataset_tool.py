"""Make a data set of any folder, archive or well-known file, or verify one."""

from elucid.commands.dataset_tool import run

if __name__ == "__main__":
    run()
