# The page at `/` is built where Node is, wheels where a compiler may be needed; they are only installed where the server runs.
FROM node:20-slim AS playground
WORKDIR /src/clients
COPY clients/playground/package.json clients/playground/package-lock.json clients/playground/.npmrc playground/
COPY clients/js/package.json js/
RUN npm --prefix playground ci
COPY clients/js/src js/src
COPY clients/playground playground
RUN npm --prefix playground run build

FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/runtime.txt
RUN python -m venv /opt/turnwire \
    && /opt/turnwire/bin/pip install --no-cache-dir --requirement requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY protocol protocol
COPY clients/playground/scripts clients/playground/scripts
COPY --from=playground /src/server/turnwire_server/playground/dist server/turnwire_server/playground/dist
RUN /opt/turnwire/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin turnwire \
    && install -d -o turnwire -g turnwire /data
COPY --from=build /opt/turnwire /opt/turnwire
ENV PATH=/opt/turnwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TURNWIRE_SERVER__HOST=0.0.0.0 \
    TURNWIRE_SERVER__DATA_DIR=/data \
    TURNWIRE_AUTH__MODE=jwt
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8787
# The process has drain_s (30 s) after SIGTERM and hands over what is left: give it longer, e.g. `docker stop --time 45`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8787/healthz', timeout=2)"]
# One process is right for one core; on a larger machine: turnwire serve --workers N (needs Redis).
CMD ["turnwire", "serve"]
