# One image for every role: `docker run registry-quota serve receiver`, `... migrate`, `... doctor`.
# `make image` builds it with the version in its labels and its tag.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends binutils >/dev/null \
 && python3 -m venv /build && python3 -m venv --without-pip /opt/registry-quota
WORKDIR /src
# Dependencies first: they change less often than the code. All are wheels, pinned with hashes; what
# they bring for debuggers, compilers, type checkers and tests is a third of their size, and stays here.
COPY requirements/ requirements/
RUN /build/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && /build/bin/pip --python /opt/registry-quota/bin/python install \
      --require-hashes --no-deps --only-binary :all: -r requirements/runtime.txt \
 && find /opt/registry-quota -name '*.so' -exec strip --strip-unneeded {} + \
 && find /opt/registry-quota -type f \
      \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -delete \
 && find /opt/registry-quota -type d \( -name tests -o -name testing \) -prune -exec rm -rf {} +
COPY . .
ARG VERSION=local
RUN /build/bin/pip wheel --no-deps --no-index --no-build-isolation -w /dist . \
 && /build/bin/pip --python /opt/registry-quota/bin/python install --no-deps --no-index /dist/*.whl \
 && if [ "${VERSION}" != local ]; then \
      [ "$(/opt/registry-quota/bin/registry-quota version)" = "${VERSION}" ]; fi

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin registry-quota \
 && install -d -o registry-quota -g registry-quota -m 750 /secrets \
    /shares/postgres /shares/registry /shares/migrate /shares/receiver \
    /shares/consumer /shares/api /shares/demo /shares/grafana
COPY --from=build /opt/registry-quota /opt/registry-quota
COPY deploy/image/healthcheck /usr/local/bin/healthcheck
ARG VERSION=local
ARG REVISION=
LABEL org.opencontainers.image.title="registry-quota" \
      org.opencontainers.image.description="Exact storage accounting, quota events and safe pre-build cleanup for a plain Docker registry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Inside a container the loopback address is the container's own: what is published is compose's choice.
ENV PATH=/opt/registry-quota/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RQ_HOST=0.0.0.0 \
    RQ_CONSUMER_METRICS_PORT=8082 \
    RQ_LOG_FORMAT=json
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081 8082 9090
HEALTHCHECK --interval=10s --timeout=8s --start-period=20s --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["registry-quota"]
CMD ["--help"]
