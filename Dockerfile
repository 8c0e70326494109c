# Stage 1 installs what requirements.txt names, each file by its hash, and compiles nothing.
FROM python:3.11-slim-bookworm AS build
WORKDIR /srv/filaviva
COPY requirements.txt .
RUN python -m venv /opt/venv
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r requirements.txt
RUN /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

# Stage 2 runs it: no installer, no compiler, nobody who could write what is executed.
FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin filaviva
RUN install --directory --owner filaviva --group filaviva --mode 0700 /data
WORKDIR /srv/filaviva
COPY --from=build /opt/venv /opt/venv
COPY . .
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FILAVIVA_HOST=0.0.0.0 \
    FILAVIVA_PORT=8000 \
    FILAVIVA_DATA_DIR=/data \
    FILAVIVA_LOG_FORMAT=json
RUN python -m compileall -q /opt/venv . && python cli.py --help >/dev/null
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "deploy/healthy.py"]
CMD ["python", "cli.py", "serve"]
