# Trustwatch as one image for every role: `serve`, `serve --workers-only`, `serve --api-only`, `topics create`, …
# Installs the extra `server`, by hash (deploy/requirements.lock).
# Runs with a read-only root file system as a user that owns nothing. What it writes: /tmp (a tmpfs will do) and, where
# nothing else is configured, /var/lib/trustwatch (a volume).
FROM python:3.13.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/trustwatch/venv/bin:$PATH \
    NUMBA_CPU_NAME=generic
# generic: the kernels that are compiled below run on every machine with this image, and give equal bits on all of them

FROM base AS build
WORKDIR /src
COPY deploy/requirements.lock deploy/build.lock pyproject.toml README.md LICENSE ./
COPY trustwatch trustwatch
COPY ingest ingest
COPY models models
COPY scoring scoring
COPY api api
COPY client client
COPY lab lab
COPY simulator simulator
RUN python -m venv --without-pip /opt/trustwatch/venv \
 && python -m pip install --no-cache-dir --root-user-action=ignore --require-hashes --no-deps --requirement build.lock \
 && python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./client . \
 && PYTHONDONTWRITEBYTECODE='' python -m pip --python /opt/trustwatch/venv/bin/python install --no-cache-dir \
    --require-hashes --no-deps --only-binary :all: --requirement requirements.lock \
 && PYTHONDONTWRITEBYTECODE='' python -m pip --python /opt/trustwatch/venv/bin/python install --no-cache-dir --no-index \
    --no-deps /wheels/trustwatch*.whl \
 && find /opt/trustwatch/venv -type d -name tests -prune -exec rm -rf {} +
# (a fifth of the image would be the tests of scipy, scikit-learn and numba)
COPY deploy/entrypoint deploy/first-start deploy/healthcheck.py deploy/warm-kernels /opt/trustwatch/bin/
RUN NUMBA_CACHE_DIR=/opt/trustwatch/kernels /opt/trustwatch/bin/warm-kernels

FROM base
RUN python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
 && mkdir -p /var/lib/trustwatch /var/lib/trustwatch-keys /var/lib/trustwatch-metrics \
 && chown 10001:10001 /var/lib/trustwatch /var/lib/trustwatch-keys /var/lib/trustwatch-metrics
COPY --from=build /opt/trustwatch /opt/trustwatch
ENV HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/kernels \
    TRUSTWATCH_DATA_DIR=/var/lib/trustwatch/data \
    TRUSTWATCH_MODEL_DIR=/var/lib/trustwatch/model \
    TRUSTWATCH_LISTEN_HOST=0.0.0.0 \
    TRUSTWATCH_LISTEN_PORT=8420
USER 10001:10001
VOLUME ["/tmp", "/var/lib/trustwatch"]
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "/opt/trustwatch/bin/healthcheck.py"]
ENTRYPOINT ["/opt/trustwatch/bin/entrypoint"]
CMD ["serve"]
