# One image for every role: `docker run registry-quota serve receiver`, `... migrate`, `... doctor`.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/registry-quota
WORKDIR /src
# Dependencies first: they change less often than the code. All are wheels, pinned with hashes.
COPY requirements/ requirements/
RUN /build/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt \
 && /build/bin/pip --python /opt/registry-quota/bin/python install \
      --require-hashes --no-deps --only-binary :all: -r requirements/runtime.txt
COPY . .
RUN /build/bin/pip wheel --no-deps --no-index --no-build-isolation -w /dist . \
 && /build/bin/pip --python /opt/registry-quota/bin/python install --no-deps --no-index /dist/*.whl

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin registry-quota \
 && install -d -o registry-quota -g registry-quota -m 750 /secrets
COPY --from=build /opt/registry-quota /opt/registry-quota
# Inside a container the loopback address is the container's own: what is published is compose's choice.
ENV PATH=/opt/registry-quota/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RQ_HOST=0.0.0.0 \
    RQ_LOG_FORMAT=json
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["registry-quota"]
CMD ["--help"]
