# Runs any of the scripts: docker run --gpus all -u $(id -u):$(id -g) -v $PWD:/data elucid train.py --outdir=/data/runs ...
FROM pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ELUCID_CACHE=/cache TORCHINDUCTOR_CACHE_DIR=/cache/inductor HOME=/tmp

# The image brings torch with CUDA; everything else is pinned by range in requirements.txt.
COPY requirements.txt /opt/elucid/
RUN grep -v '^torch==' /opt/elucid/requirements.txt > /tmp/rest.txt \
    && python -m pip install --no-cache-dir -r /tmp/rest.txt \
    && rm /tmp/rest.txt \
    && mkdir -p /cache && chmod 1777 /cache

COPY . /opt/elucid
ENV PYTHONPATH=/opt/elucid PATH=/opt/elucid/docker:$PATH
WORKDIR /data
VOLUME ["/cache", "/data"]
ENTRYPOINT ["/opt/elucid/docker/entrypoint.sh"]
CMD ["train.py", "--help"]
