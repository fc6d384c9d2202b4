"""Runs the steps of the Dockerfile in a plain Debian, where no Docker is, and tries what they made.

    python docker/plain_debian.py /tmp/debian [--bind=/opt/wheels] [--suite=bookworm]      # as root, with debootstrap

The base image is replaced by Debian with Python and pip; ARG and FROM are shown only. Each RUN is a shell in a chroot,
with the environment and the user that the file has set by then, and COPY takes what git knows. Then, as the image's
user: the demo's data set, a short training, samples; as another user: the note about the cache. `--bind` mounts folders
that pip needs.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = "python3,python3-pip,python3-venv,python-is-python3,ca-certificates"
LIMIT = 1800


def instructions(text: str) -> list[tuple[str, str]]:
    """Return (instruction, argument) of a Dockerfile, without comments, continued lines joined."""
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(kept))
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined.splitlines()]


class Machine:
    """A folder with a Debian, and what the instructions have set so far."""

    def __init__(self, folder: Path, suite: str, binds: list[Path]):
        self.folder, self.user, self.place, self.mounted = folder, "0:0", "/", []
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        if not (folder / "usr/bin/pip3").exists():
            options = ["--variant=minbase", f"--include={PACKAGES}"]
            subprocess.run(["debootstrap", *options, suite, folder], check=True, stdout=subprocess.DEVNULL)
        for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(Path("/") / name, folder / name)
        for source in [Path("/proc"), Path("/dev"), *binds]:
            target = folder / source.relative_to("/")
            target.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, target], check=True)
            self.mounted.append(target)

        forget = "userdel elucid; groupdel elucid; rm -rf /cache /data /opt/elucid"  # of an earlier call
        subprocess.run(["chroot", folder, "sh", "-c", forget], capture_output=True)

    def close(self) -> None:
        for target in reversed(self.mounted):
            subprocess.run(["umount", target], check=True)

    def run(self, command: list[str], user: str | None = None, **more: str) -> str:
        """Run a command inside, show it, and return what it printed; ends the program if it fails."""
        inside = ["env", "-i", *(f"{name}={value}" for name, value in {**self.environment, **more}.items())]
        change = f'cd {shlex.quote(self.place)} && exec "$@"'
        chroot = ["chroot", f"--userspec={user or self.user}", "--groups=", str(self.folder)]
        print("+", shlex.join(command)[:160], flush=True)
        done = subprocess.run(
            [*chroot, *inside, "/bin/sh", "-c", change, "-", *command], capture_output=True, text=True, timeout=LIMIT
        )
        if done.returncode:
            sys.exit(f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def do(self, instruction: str, argument: str) -> None:
        """Carry out one instruction."""
        if instruction == "ENV":
            for part in shlex.split(argument):
                name, _, value = part.partition("=")
                self.environment[name] = value.replace("$PATH", self.environment["PATH"])
        elif instruction == "COPY":
            self.copy(*argument.split())
        elif instruction == "RUN":
            self.run(["/bin/sh", "-c", argument], **self.pip)
        elif instruction == "WORKDIR":
            self.place = argument
            (self.folder / argument.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            self.user = argument
        else:
            print(f"  not carried out: {instruction} {argument}")

    def copy(self, source: str, target: str) -> None:
        """Copy files of the repository; a folder whole, as far as git knows it."""
        print(f"+ COPY {source} {target}")
        place = self.folder / target.strip("/")
        place.mkdir(parents=True, exist_ok=True)
        if source == ".":
            archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", place], input=archive, check=True)
        else:
            shutil.copy(ROOT / source, place)


def trial(machine: Machine, entry: list[str]) -> None:
    """What a user of the image does first."""
    assert machine.run([*entry, "train.py", "--version"]).startswith("Elucid ")
    machine.run([*entry, "dataset_tool.py", "--source=builtin:digits", "--dest=/data/digits.zip"])
    flags = ["--data=/data/digits.zip", "--preset=demo", "--outdir=/data/run", "--nosubdir", "--duration=0.002"]
    print(machine.run([*entry, "train.py", *flags]).splitlines()[-1])
    print(machine.run([*entry, "train.py", *flags, "--resume=auto"], GPUS="2").splitlines()[-1])
    network = ["--network=/data/run", "--outdir=/data/samples", "--seeds=0-3", "--steps=4"]
    print(machine.run([*entry, "generate.py", *network]).splitlines()[-1])
    owners = {path.stat().st_uid for path in (machine.folder / "data").rglob("*")}
    assert owners == {int(machine.user.split(":")[0])}, f"the files belong to {owners}"
    stranger = machine.run([*entry, "train.py", "--version"], user="1234:1234")
    assert "the cache is of another user" in stranger, stranger
    assert "Permission denied" in machine.run(
        ["sh", "-c", "touch /opt/elucid/train.py /cache/x 2>&1 || true"], user="1234:1234"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--bind", type=Path, action="append", default=[])
    options = parser.parse_args()
    machine, entry = Machine(options.folder.resolve(), options.suite, options.bind), []
    try:
        for instruction, argument in instructions((ROOT / "Dockerfile").read_text()):
            machine.do(instruction, argument)
            entry = shlex.split(argument.strip("[]").replace(",", " ")) if instruction == "ENTRYPOINT" else entry
        trial(machine, entry)
    finally:
        machine.close()
    print("all steps of the Dockerfile ran, and what they made works")


if __name__ == "__main__":
    main()
