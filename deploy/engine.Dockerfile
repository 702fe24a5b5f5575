# Engine workers: torch with CUDA, as PyPI ships it for Linux; runs on a CPU as well.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/idefiq
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY idefiq idefiq
RUN pip install --constraint constraints.txt --editable '.[engine]'
COPY db db
COPY workers workers

# Checkpoints are looked for, and downloaded to, this volume: HF_HUB_OFFLINE=1 forbids the latter.
ENV HF_HOME=/models
RUN useradd --system --uid 10001 idefiq && mkdir /models && chown 10001 /models
VOLUME /models
USER 10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "workers", "engine"]
