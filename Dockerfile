# One image for every process of meterd: `serve` (the default), `worker`, `migrate`, `keys` and the rest of the command.
ARG PYTHON_IMAGE=python:3.12-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# Dependencies first: they change less often than the code. Wheels only, so that nothing is compiled here.
COPY requirements.build.lock requirements.runtime.lock ./
RUN python -m venv --without-pip /opt/meterd \
 && pip install --require-hashes --only-binary :all: -r requirements.build.lock \
 && pip --python /opt/meterd/bin/python install --require-hashes --only-binary :all: -r requirements.runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY src src
RUN pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./clients/python . \
 && pip --python /opt/meterd/bin/python install --no-deps --no-index wheels/*.whl \
 && /opt/meterd/bin/meterd --version

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="meterd" \
      org.opencontainers.image.description="A gRPC metering sidecar for AI backends" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 meterd \
 && useradd --system --uid 10001 --gid meterd --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin meterd
# The virtual environment names its own path and its interpreter's: both are the same in the two stages.
COPY --from=build /opt/meterd /opt/meterd
# In a container the listeners have to be reachable from outside it. gRPC then asks for TLS, or for METERD_ALLOW_PLAINTEXT.
ENV PATH=/opt/meterd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    METERD_LISTEN=0.0.0.0:8260 \
    METERD_HTTP_LISTEN=0.0.0.0:8261 \
    METERD_HTTP_ADDRESS=0.0.0.0:8262 \
    METERD_LOG_FORMAT=json
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8260 8261 8262
STOPSIGNAL SIGTERM
# Asks gRPC's health service. With TLS, give it the CA: --health-cmd "meterd health --ca FILE"; see docs/OPERATING.md.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["meterd", "health"]
ENTRYPOINT ["meterd"]
CMD ["serve"]
