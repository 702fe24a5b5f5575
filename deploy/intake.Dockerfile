# Intake and upkeep workers: no torch.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/idefiq
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY idefiq idefiq
RUN pip install --constraint constraints.txt --editable '.[intake]'
COPY db db
COPY workers workers

RUN useradd --system --uid 10001 idefiq
USER 10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "workers", "intake"]
