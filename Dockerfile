# The daemons without what builds them, as an unprivileged user. The configuration is mounted at /etc/cohortium, state at
# /var/lib/cohortium; compose.yaml shows a whole deployment.
FROM python:3.12-slim AS build
COPY requirements/core.lock /build/core.lock
RUN python -m venv /opt/cohortium \
 && /opt/cohortium/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        -r /build/core.lock
COPY pyproject.toml README.md LICENSE /build/
COPY fhe /build/fhe
COPY mpc /build/mpc
COPY pki /build/pki
COPY nodes /build/nodes
# setuptools comes with the lock; pip and setuptools then stay behind.
RUN /opt/cohortium/bin/python -m pip install --no-cache-dir --no-index --no-deps --no-build-isolation /build \
 && /opt/cohortium/bin/python -m pip uninstall --yes --quiet setuptools pip \
 && /opt/cohortium/bin/python -m compileall -q /opt/cohortium/lib

FROM python:3.12-slim
RUN useradd --uid 10001 --user-group --home-dir /var/lib/cohortium --create-home --shell /usr/sbin/nologin cohortium \
 && install -d -o cohortium -g cohortium -m 0700 /var/lib/cohortium /run/cohortium
COPY --from=build /opt/cohortium /opt/cohortium
ENV PATH=/opt/cohortium/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /var/lib/cohortium
STOPSIGNAL SIGTERM
ENTRYPOINT ["cohortium"]
CMD ["--help"]
