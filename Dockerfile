# Runs any of the scripts: docker run --gpus all -u $(id -u):$(id -g) -v $PWD:/data elucid train.py --outdir=/data/runs ...
FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ELUCID_CACHE=/cache TORCHINDUCTOR_CACHE_DIR=/cache/inductor HOME=/tmp

# The image brings torch with CUDA, of the version in requirements.txt, so pip leaves it as it is. Its Python is the
# system's, into which pip installs only when told to; in a container nothing else depends on it.
COPY requirements.txt /opt/elucid/
RUN python -m pip install --no-cache-dir --break-system-packages -r /opt/elucid/requirements.txt \
    && mkdir -p /cache && chmod 1777 /cache

COPY . /opt/elucid
ENV PYTHONPATH=/opt/elucid PATH=/opt/elucid/docker:$PATH
WORKDIR /data
VOLUME ["/cache", "/data"]
ENTRYPOINT ["/opt/elucid/docker/entrypoint.sh"]
CMD ["train.py", "--help"]
