# Runs any of the scripts: docker run --gpus all -v $PWD:/data elucid train.py --outdir=/data/runs ...
# The tag names one release of torch, that of requirements.txt, so that pip leaves it as it is. To pin the bytes as well,
# build with --build-arg=BASE=pytorch/pytorch@sha256:... of the image that you have checked.
ARG BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
# hadolint ignore=DL3006
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ELUCID_CACHE=/cache TORCHINDUCTOR_CACHE_DIR=/cache/inductor HOME=/tmp

# The base's Python is the system's, into which pip installs only when told to; nothing else in a container depends on it.
COPY requirements.txt /opt/elucid/
RUN python -m pip install --no-cache-dir --break-system-packages -r /opt/elucid/requirements.txt

# A user of its own, who alone can write to the cache: what lies there is data that runs are trained on.
RUN groupadd --gid 1000 --non-unique elucid \
    && useradd --uid 1000 --non-unique --gid 1000 --no-create-home --home-dir /tmp elucid \
    && install -d -o 1000 -g 1000 -m 0700 /cache \
    && install -d -o 1000 -g 1000 /data

COPY . /opt/elucid
ENV PYTHONPATH=/opt/elucid PATH=/opt/elucid/docker:$PATH
WORKDIR /data
VOLUME ["/cache", "/data"]
USER 1000:1000
ENTRYPOINT ["/opt/elucid/docker/entrypoint.sh"]
CMD ["train.py", "--help"]
