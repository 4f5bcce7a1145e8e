# A server for the built-in model, or for models in a volume: docs/install.md has the commands that build and run it.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# The compiler is for the extension that multiplies few rows; without one the package installs, too, and is slower.
# It has no pinned version, since Debian keeps no older one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/convmodel
ENV PATH=/opt/convmodel/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
# torch for CPUs. PyPI's needs several gigabytes of CUDA's packages; they follow with --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --constraint constraints.txt --index-url "${TORCH_INDEX}" --no-deps torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --constraint constraints.txt ".[serve]"

FROM python:${PYTHON}-slim
# The home is the volume: what is downloaded from the Hub stays there, too.
RUN useradd --uid 10001 --home-dir /models --create-home --shell /usr/sbin/nologin convmodel
COPY --from=build /opt/convmodel /opt/convmodel
ENV PATH=/opt/convmodel/bin:$PATH \
    HF_HOME=/models/huggingface
WORKDIR /models
VOLUME /models
USER 10001
EXPOSE 8000
# The first answer ends the start period, so that a large model may take its time to load.
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=3); c.request('GET', '/ready'); exit(c.getresponse().status != 200)"]
# On this address the server starts with a key only, from the variable CONVMODEL_API_KEY or --api-key-file.
ENTRYPOINT ["convmodel", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["builtin:chitchat"]
