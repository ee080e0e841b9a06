# Trains and predicts on NVIDIA GPUs; the host has the driver (580 or newer) and the NVIDIA Container Toolkit.
#
#     docker build -t gcn_jax .
#     docker run --gpus all --user "$(id -u)" -v "$PWD:/work" gcn_jax train folder --config.data_dir=DIR
FROM python:3.12.12-slim-bookworm

# CUDA itself comes from PyPI, with jax; these ask the toolkit for the driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 gcn

# What changes rarely first: a change of the code leaves these layers as they are.
COPY requirements.txt /build/
RUN pip install --no-cache-dir -r /build/requirements.txt \
    && pip install --no-cache-dir -c /build/requirements.txt "jax[cuda13]"

COPY pyproject.toml README.md LICENSE /build/
COPY configs /build/configs
COPY gcn_jax /build/gcn_jax
RUN pip install --no-cache-dir --no-deps /build

USER 1000
WORKDIR /work
ENTRYPOINT ["gcn_jax"]
CMD ["--help"]
