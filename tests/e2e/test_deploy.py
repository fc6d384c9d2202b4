"""The files of deploy/ and docker/: schemas and linters where installed, and the SLURM script on a false SLURM."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import elucid
from tests.scripts import environment

ROOT = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = ("deploy/slurm.sh", "docker/entrypoint.sh", "demo.sh", ".ci/run")


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_shellcheck(script):
    subprocess.run(["shellcheck", ROOT / script], check=True)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint():
    subprocess.run(["hadolint", ROOT / "Dockerfile"], check=True)


def test_kubernetes_schema():
    yaml, validator = pytest.importorskip("yaml"), pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
    assert [one["kind"] for one in documents] == ["PersistentVolumeClaim", "Job"]
    for one in documents:
        validator.validate(one, "1.31", strict=True)


def test_kubeflow_schema():
    yaml, models = pytest.importorskip("yaml"), pytest.importorskip("kubeflow_trainer_api.models")
    from pydantic import ValidationError

    kinds = {"TrainingRuntime": models.TrainerV1alpha1TrainingRuntime, "TrainJob": models.TrainerV1alpha1TrainJob}
    for one in yaml.safe_load_all((ROOT / "deploy/kubeflow.yaml").read_text()):
        try:
            kinds[one["kind"]].model_validate(one)
        except ValidationError as error:
            # These models have no form for quantities such as 8Gi, which the server takes as text.
            assert all("Quantity" in str(found) for found in error.errors()), error


def test_compose_builds_what_the_dockerfile_is():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    assert services["train"]["stop_grace_period"] == "3m" and "cap_drop" in services["train"]
    assert "USER 1000:1000" in (ROOT / "Dockerfile").read_text()


def test_the_image_runs_every_script(tmp_path):
    scripts = {path.name for path in ROOT.glob("*.py")}
    entry = (ROOT / "docker/entrypoint.sh").read_text()
    assert all(name in entry for name in scripts)
    where = {**environment(), "ELUCID_HOME": str(ROOT), "ELUCID_CACHE": str(tmp_path)}
    where["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ROOT / "docker/entrypoint.sh", "train.py", "--version"], env=where, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("Elucid ")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", path, max_images=64)
    return path


@pytest.mark.parametrize("sent", [signal.SIGUSR1])
def test_slurm_saves_and_goes_back_into_the_queue(tmp_path, digits, sent):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "srun": 'shift; exec "$@"',  # one machine; the option is srun's own
        "scontrol": f'if [ "$1" = show ]; then echo localhost; else echo "$@" >> {tmp_path}/scontrol.txt; fi',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "localhost"}
    where = {**environment(), **slurm, "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    where["PATH"] = f"{tools}:{os.environ['PATH']}"
    flags = [f"--outdir={tmp_path}/run", f"--data={digits}", "--preset=demo", "--tick=0.064", "--dump=1", "--nosubdir"]
    command = ["bash", ROOT / "deploy/slurm.sh", *flags]
    with subprocess.Popen(command, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob("run/training-state-*.pt")) and time.monotonic() < deadline:
            assert job.poll() is None, job.stdout.read()
            time.sleep(0.1)
        job.send_signal(sent)
        said, _ = job.communicate(timeout=90)
    assert job.returncode == 0, said
    assert (tmp_path / "scontrol.txt").read_text().split() == ["requeue", slurm["SLURM_JOB_ID"]]
    assert "stopped at" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]
