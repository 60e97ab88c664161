# syntax=docker/dockerfile:1
# The page and the HTTP API in a container. On the CPU:
#   docker build -t dehaze . && docker run --rm -p 127.0.0.1:7860:7860 dehaze
# With an NVIDIA GPU (and the NVIDIA container toolkit on the host):
#   docker build -t dehaze:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm --gpus all -p 127.0.0.1:7860:7860 dehaze:cuda
# A folder of photos:
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/photos" dehaze run /photos -o /photos/dehazed
FROM python:3.13-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Torch first, from its own index: the layer is kept while the sources change.
RUN python -m venv /opt/dehaze && /opt/dehaze/bin/pip install "torch>=2.6,<2.14" --index-url "${TORCH_INDEX}"
WORKDIR /src
COPY . .
RUN /opt/dehaze/bin/pip install ".[ui]"

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="dehaze" \
      org.opencontainers.image.description="Removes haze from photographs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/dehaze /opt/dehaze
# Only a model named by hub id is downloaded, to /models.
ENV PATH="/opt/dehaze/bin:${PATH}" HF_HOME=/models HF_HUB_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 dehaze && install -d -o dehaze -g dehaze /models
# The number, since a host that refuses root cannot look up the name.
USER 1000
WORKDIR /home/dehaze
EXPOSE 7860 8000
ENTRYPOINT ["dehaze"]
# 0.0.0.0 is the container's own network; the host decides which ports it publishes, and to whom.
CMD ["ui", "--host", "0.0.0.0"]
